"""Torch-Pruning on a dense model of ours: the same split, pictures, teacher, epochs and rates, at the same MACs.

python torch-pruning.py DENSE --data caltech101.zip --macs 0.5 --epochs 8 --setting taylor --seed 0 -o result.json

DENSE is a dense model folder with f32 weights (`slimvit export DENSE -o DIR --dtype f32`): its tensors have timm's names. Heads,
head dims and MLP units are pruned by one global isomorphic ranking; the widths of the residual stream too with
--setting taylor-embed. Nothing here ships: its one purpose is the table in docs/experiments.md.
"""

import argparse
import copy
import functools
import json
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning as tp
from safetensors.torch import load_file
from timm.models.vision_transformer import Attention, VisionTransformer

from pictures import centre_crop, normalised, random_crop, read_pictures

SETTINGS = ("taylor", "magnitude", "taylor-embed")
TAYLOR_PICTURES = 512


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dense")
    parser.add_argument("--data", required=True)
    parser.add_argument("--macs", type=float, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default="taylor")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--min-scale", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast, as `--precision bf16` of ours")
    parser.add_argument("--limit", type=int, help="so many pictures a split: a trial of the script, no result")
    parser.add_argument("-o", "--out")
    args = parser.parse_args()
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    with open(f"{args.dense}/slimvit.json") as file:
        manifest = json.load(file)
    labels = [label["id"] for label in manifest["labels"]]
    splits = {split: read_split(args, labels, split) for split in ("train", "val", "test")}
    teacher = dense_model(manifest, f"{args.dense}/model.f32.safetensors")
    result = vars(args) | {"dense": evaluate(teacher, manifest, splits["test"])}

    student, ratio = prune_to(teacher, args, manifest, splits["train"])
    macs = count_macs(student, manifest)
    result |= {"macsShare": macs / count_macs(teacher, manifest), "ratio": ratio, "widths": widths(student)}
    result["untrained"] = evaluate(student, manifest, splits["val"])
    started = time.time()
    retrain(student, teacher, manifest, splits["train"], args)
    result |= {"seconds": time.time() - started}
    result |= {split: evaluate(student, manifest, splits[split]) for split in ("val", "test")}
    print(json.dumps(result))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result, file)


def read_split(args, labels, split):
    """[(bytes, class index)]"""
    pictures = [(data, labels.index(name)) for data, name in read_pictures(args.data, split)]
    return pictures[:: max(1, len(pictures) // args.limit)] if args.limit else pictures


def dense_model(manifest, weights):
    first = manifest["blocks"][0]
    model = VisionTransformer(
        img_size=tuple(manifest["imageSize"]),
        patch_size=manifest["patchSize"],
        embed_dim=manifest["embedDim"],
        depth=len(manifest["blocks"]),
        num_heads=len(first["headDims"]),
        mlp_ratio=first["mlpHidden"] / manifest["embedDim"],
        num_classes=len(manifest["labels"]),
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=manifest["layerNormEps"]),
    )
    model.load_state_dict(load_file(weights))
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = attention.__get__(module)
    return model.eval()


def attention(self, x, **_):
    """timm's attention, for heads that no longer fill the embedding; the scale stays the dense head's."""
    batch, tokens, _ = x.shape
    width = self.qkv.out_features // (3 * self.num_heads)
    q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
    x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
    return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


def prune_to(teacher, args, manifest, pictures):
    """The pruning ratio whose MACs come nearest to the target from below, by bisection."""
    gradients = taylor_gradients(teacher, manifest, pictures, args) if args.setting != "magnitude" else None
    target = args.macs * count_macs(teacher, manifest)
    low, high, best = 0.0, 0.95, None
    for _ in range(12):
        ratio = (low + high) / 2
        student = pruned(teacher, gradients, ratio, args, manifest)
        if count_macs(student, manifest) <= target:
            high, best = ratio, (student, ratio)
        else:
            low = ratio
    return best


def pruned(teacher, gradients, ratio, args, manifest):
    model = copy.deepcopy(teacher)
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = attention.__get__(module)  # a copy's methods are bound to the original
    heads = {module.qkv: module.num_heads for module in model.modules() if isinstance(module, Attention)}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    if gradients:
        importance = tp.importance.GroupTaylorImportance()
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone()
    keeps_stream = args.setting != "taylor-embed"
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 3, *manifest["imageSize"]),
        importance=importance,
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=True,
        head_pruning_ratio=ratio,
        ignored_layers=[model.head],
        pruning_ratio_dict={model.patch_embed: 0.0} if keeps_stream else None,
    )
    pruner.step()
    for module in model.modules():
        if isinstance(module, Attention):
            module.num_heads = pruner.num_heads[module.qkv]
    model.zero_grad()
    return model


def taylor_gradients(teacher, manifest, pictures, args):
    model = copy.deepcopy(teacher)
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = attention.__get__(module)
    chosen = random.sample(pictures, min(TAYLOR_PICTURES, len(pictures)))
    for at in range(0, len(chosen), args.batch):
        batch = chosen[at : at + args.batch]
        pixels = pixels_of([centre_crop(data, manifest["preprocess"]) for data, _ in batch], manifest)
        F.cross_entropy(model(pixels), torch.tensor([label for _, label in batch])).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def retrain(student, teacher, manifest, pictures, args):
    student.train()
    decays = [p for p in student.parameters() if p.ndim >= 2]
    others = [p for p in student.parameters() if p.ndim < 2]
    groups = [{"params": decays, "weight_decay": 0.05}, {"params": others, "weight_decay": 0}]
    optimiser = torch.optim.AdamW(groups, lr=args.lr)
    per_epoch = math.ceil(len(pictures) / args.batch)
    total, warm = round(args.epochs * per_epoch), round(0.2 * per_epoch)
    order = []
    for step in range(total):
        if len(order) == 0:
            order = random.sample(range(len(pictures)), len(pictures))
        batch = [pictures[k] for k in order[: args.batch]]
        order = order[args.batch :]
        rise = (step + 1) / max(1, warm)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        for group in optimiser.param_groups:
            group["lr"] = args.lr * (rise if step < warm else fall)
        crop = manifest["preprocess"]["crop"]
        pixels = pixels_of([random_crop(data, crop, args.min_scale, random) for data, _ in batch], manifest)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            with torch.no_grad():
                wanted = F.log_softmax(teacher(pixels).float(), -1)
            logits = student(pixels).float()
        labels = torch.tensor([label for _, label in batch])
        distillation = F.kl_div(F.log_softmax(logits, -1), wanted, reduction="batchmean", log_target=True)
        loss = args.alpha * distillation + (1 - args.alpha) * F.cross_entropy(logits, labels, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 0:
            print(f"{step}/{total} loss {loss.item():.3f}", flush=True)
    student.eval()


@torch.no_grad()
def evaluate(model, manifest, pictures, batch=32):
    right = []
    for at in range(0, len(pictures), batch):
        some = pictures[at : at + batch]
        logits = model(pixels_of([centre_crop(data, manifest["preprocess"]) for data, _ in some], manifest))
        right += [int(best == label) for best, (_, label) in zip(logits.argmax(-1).tolist(), some)]
    return {"top1": sum(right) / len(right), "n": len(right), "right": right}


def pixels_of(crops, manifest):
    return normalised(torch.from_numpy(np.stack(crops)), manifest["preprocess"])


def widths(model):
    blocks = model.blocks
    return [{"heads": b.attn.num_heads, "channels": b.attn.proj.in_features, "units": b.mlp.fc1.out_features} for b in blocks]


def count_macs(model, manifest):
    """countMacs of src/format/model.ts, all tokens kept."""
    patches = math.prod(side // manifest["patchSize"] for side in manifest["imageSize"])
    n, d = patches + 1, model.head.in_features
    macs = patches * d * 3 * manifest["patchSize"] ** 2 + d * model.head.out_features
    for block in widths(model):
        s, m = block["channels"], block["units"]
        macs += n * d * 3 * s + 2 * n * n * s + n * s * d + 2 * n * d * m
    return macs


if __name__ == "__main__":
    main()
