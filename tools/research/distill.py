"""`slimvit retrain` in PyTorch, for a GPU that TensorFlow.js does not fill: slim models learn together from one dense teacher.

python distill.py TEACHER STUDENT... --data a.zip --data b.zip --steps 2000 -o OUT
python distill.py TEACHER STUDENT... --check      # no training: is this network slimvit's? By the logits in each manifest

TEACHER and STUDENT are model folders with f32 or f16 weights; OUT/NAME is written for each STUDENT, with its keep-lists and
widths as they were and new f32 weights. Every step, all students see the same pictures, so that they can be compared: random
crops, mirroring, in half of the steps mixup; the loss is KL(teacher ‖ student). Pictures are of the data's train split; on its
val split divergence and agreement are measured. Labels are not read.
"""

import argparse
import hashlib
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pictures import centre_crop, normalised, random_crop, read_pictures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--data", action="append", default=[], help="zip of class folders; given twice, its pictures come twice as often")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seconds", type=float, help="instead: as many steps as fit, told from the first ones")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-4)
    parser.add_argument("--lr-of", action="append", default=[], metavar="NAME=LR", help="another rate for one student")
    parser.add_argument("--warmup", type=int, default=50, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--mixup", type=float, default=0.8, help="Beta parameter; 0 is off")
    parser.add_argument("--min-scale", type=float, default=0.35)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("-o", "--out")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    teacher = Vit(args.teacher).to(args.device).eval()
    students = {os.path.basename(folder.rstrip("/")): Vit(folder).to(args.device) for folder in args.students}
    if args.check:
        return check({"teacher": teacher} | students, args.device)
    read = lambda archives, split: [data for path in archives for data, _ in read_pictures(path, split)]
    train, val = read(args.data, "train"), read(dict.fromkeys(args.data), "val")
    print(f"{len(train)} pictures to learn from, {len(val)} held back", flush=True)
    rates = {name: args.lr for name in students} | {name: float(lr) for name, lr in (item.split("=") for item in args.lr_of)}
    before = measure(teacher, students, val, args)
    seconds, steps = distil(teacher, students, train, rates, args)
    after = measure(teacher, students, val, args)
    for name, student in students.items():
        print(name, json.dumps({"before": before[name], "after": after[name]}), flush=True)
        write_folder(
            student,
            f"{args.out}/{name}",
            {
                "command": "distill",
                "program": "tools/research/distill.py",
                "data": [os.path.basename(path) for path in args.data],
                "pictures": len(train),
                "teacher": os.path.basename(args.teacher.rstrip("/")),
                "batch": args.batch,
                "lr": rates[name],
                "warmupSteps": args.warmup,
                "weightDecay": args.weight_decay,
                "mixup": args.mixup,
                "minScale": args.min_scale,
                "seed": args.seed,
                "students": len(students),
                "environment": f"torch {torch.__version__}, {device_name(args.device)}, bf16",
                "steps": steps,
                "seconds": seconds,
                "valDivergence": after[name]["divergence"],
                "valAgreement": after[name]["agreement"],
                "valPictures": len(val),
            },
        )


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else device


class Vit(torch.nn.Module):
    """A model folder: only the surviving tokens, heads, channels and units are computed."""

    def __init__(self, folder):
        super().__init__()
        with open(f"{folder}/slimvit.json") as file:
            self.manifest = json.load(file)
        files = {weights["dtype"]: weights for weights in self.manifest["weights"]}
        self.weights_file = files.get("f32") or files["f16"]
        tensors = load_file(f"{folder}/{self.weights_file['file']}")
        self.names = list(tensors)
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(tensor.float()) for tensor in tensors.values()])
        alive = list(range(self.tokens()))
        for i, block in enumerate(self.manifest["blocks"]):
            at = {token: position for position, token in enumerate(alive)}
            kept = torch.tensor([at[token] for token in block["keepIdx"]])
            self.register_buffer(f"keep{i}", kept if len(kept) < len(alive) else None)
            alive = block["keepIdx"]

    def tokens(self):
        return self.manifest["prefixTokens"] + math.prod(side // self.manifest["patchSize"] for side in self.manifest["imageSize"])

    def forward(self, pixels):
        """pixels [batch, 3, height, width], normalised → logits [batch, classes]"""
        m, w = self.manifest, dict(zip(self.names, self.weights))
        norm = lambda x, name: F.layer_norm(x, (m["embedDim"],), w[f"{name}.weight"], w[f"{name}.bias"], m["layerNormEps"])
        linear = lambda x, name: F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
        patches = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=m["patchSize"])
        x = torch.cat([w["cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
        for i, block in enumerate(m["blocks"]):
            keep = getattr(self, f"keep{i}")
            x = x if keep is None else x[:, keep]
            mixed = attention(linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), block["headDims"], m["headDim"] ** -0.5)
            x = x + linear(mixed, f"blocks.{i}.attn.proj")
            x = x + linear(F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
        return linear(norm(x[:, 0], "norm"), "head")


def attention(qkv, widths, scale):
    """qkv [batch, tokens, 3 × Σ widths] → [batch, tokens, Σ widths]; ragged heads are padded with exact zeros."""
    q, k, v = qkv.chunk(3, -1)
    if len(set(widths)) == 1:
        heads = [x.unflatten(-1, (len(widths), widths[0])).transpose(1, 2) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*heads, scale=scale).transpose(1, 2).flatten(2)
    widest = math.ceil(max(widths) / 8) * 8
    heads = [torch.stack([F.pad(h, (0, widest - h.shape[-1])) for h in x.split(widths, -1)], 1) for x in (q, k, v)]
    mixed = F.scaled_dot_product_attention(*heads, scale=scale)
    return torch.cat([mixed[:, h, :, :width] for h, width in enumerate(widths)], -1)


def distil(teacher, students, pictures, rates, args):
    """@returns seconds and steps"""
    optimisers = {name: optimiser_of(student, args.weight_decay) for name, student in students.items()}
    pre = teacher.manifest["preprocess"]
    data = torch.utils.data.DataLoader(
        Crops(pictures, pre["crop"], args),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=4,
        pin_memory=args.device == "cuda",
    )
    rng, steps, started = random.Random(args.seed), args.steps, time.time()
    for step, crops in enumerate(data):
        if args.seconds and step == 30:
            since = time.time()
        if args.seconds and step == 60:
            steps = 60 + int((args.seconds - (time.time() - started)) * 30 / (time.time() - since))
            print(f"{steps} steps", flush=True)
        if step >= steps:
            break
        pixels = normalised(crops.to(args.device, non_blocking=True), pre)
        if args.mixup and rng.random() < 0.5:
            share = rng.betavariate(args.mixup, args.mixup)
            pixels = share * pixels + (1 - share) * pixels.flip(0)
        with torch.no_grad():
            wanted = F.log_softmax(teacher(pixels), -1)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - args.warmup) / max(1, steps - args.warmup)))
        share = (step + 1) / args.warmup if step < args.warmup else fall
        losses = {}
        for name, student in students.items():
            with torch.autocast(args.device, torch.bfloat16):
                logits = student(pixels)
            loss = F.kl_div(F.log_softmax(logits.float(), -1), wanted, reduction="batchmean", log_target=True)
            loss.backward()
            for group in optimisers[name].param_groups:
                group["lr"] = rates[name] * share
            optimisers[name].step()
            optimisers[name].zero_grad(set_to_none=True)
            losses[name] = loss.detach()
        if step % 100 == 0:
            told = " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            print(f"{step}/{steps} {(step + 1) * args.batch / (time.time() - started):.0f} pictures/s  {told}", flush=True)
    return time.time() - started, steps


def optimiser_of(student, weight_decay):
    """As `slimvit retrain`: no decay on vectors, embeddings and the class token."""
    named = list(zip(student.names, student.weights))
    decays = [p for name, p in named if p.ndim > 1 and name not in ("pos_embed", "cls_token")]
    others = [p for name, p in named if not any(p is q for q in decays)]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0}]
    return torch.optim.AdamW(groups, lr=0, fused=True)


class Crops(torch.utils.data.IterableDataset):
    """Endless batches [batch, 3, height, width] in bytes; each worker goes through all pictures in an order of its own."""

    def __init__(self, pictures, size, args):
        self.pictures, self.size, self.args = pictures, size, args

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        rng, order = random.Random(f"{self.args.seed} {info.id if info else 0}"), []
        torch.set_num_threads(1)
        while True:
            batch = []
            while len(batch) < self.args.batch:
                order = order or rng.sample(range(len(self.pictures)), len(self.pictures))
                batch.append(random_crop(self.pictures[order.pop()], self.size, self.args.min_scale, rng))
            yield torch.from_numpy(np.stack(batch))


@torch.no_grad()
def measure(teacher, students, pictures, args):
    """Of each student, in f32: mean KL(teacher ‖ student) in nats, and how often its best class is the teacher's."""
    pre, sums = teacher.manifest["preprocess"], {name: [0.0, 0] for name in students}
    for at in range(0, len(pictures), 64):
        crops = np.stack([centre_crop(data, pre) for data in pictures[at : at + 64]])
        pixels = normalised(torch.from_numpy(crops).to(args.device), pre)
        wanted = F.log_softmax(teacher(pixels), -1)
        for name, student in students.items():
            logits = F.log_softmax(student(pixels), -1)
            sums[name][0] += F.kl_div(logits, wanted, reduction="sum", log_target=True).item()
            sums[name][1] += (logits.argmax(-1) == wanted.argmax(-1)).sum().item()
    return {name: {"divergence": kl / len(pictures), "agreement": same / len(pictures)} for name, (kl, same) in sums.items()}


def write_folder(student, folder, step):
    os.makedirs(folder, exist_ok=True)
    file = f"{folder}/model.f32.safetensors"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in zip(student.names, student.weights)}, file)
    with open(file, "rb") as written:
        data = written.read()
    weights = {"dtype": "f32", "file": "model.f32.safetensors", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    provenance = student.manifest["provenance"]
    provenance = provenance | {"steps": provenance.get("steps", []) + [step]}
    with open(f"{folder}/slimvit.json", "w") as out:
        json.dump(student.manifest | {"weights": [weights], "metrics": {}, "provenance": provenance}, out)


@torch.no_grad()
def check(models, device):
    """The self-test that `slimvit export` wrote: logits on pixels from a linear congruential generator (src/format/write.ts)."""
    for name, model in models.items():
        test, size = model.weights_file["selfTest"], model.manifest["imageSize"]
        state, values = test["seed"], []
        for _ in range(3 * size[0] * size[1]):
            state = (state * 1664525 + 1013904223) % 2**32
            values.append((state >> 8) / 2**23 - 1)
        logits = model(torch.tensor(values, device=device).view(1, 3, *size))[0].cpu()
        print(name, f"largest difference of a logit {(logits - torch.tensor(test['logits'])).abs().max():.1e}")


if __name__ == "__main__":
    main()
