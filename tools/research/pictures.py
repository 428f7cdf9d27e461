"""Pictures as `slimvit` takes them: the same splits, crops and normalisation, for the scripts in PyTorch."""

import io
import math
import zipfile

import numpy as np
import torch
from PIL import Image


def read_pictures(archive, split):
    """[(bytes, class)] of train/, val/ and test/ folders, or by position: each class's file names sorted; k mod 5 = 4 is test, 3 val."""
    archive, classes, pictures = zipfile.ZipFile(archive), {}, []
    for name in archive.namelist():
        if name.lower().endswith((".jpg", ".jpeg", ".png")) and "/" in name:
            classes.setdefault(tuple(name.split("/")[:-1]), []).append(name)
    has_folders = any(folder[:-1][-1:] == ("train",) for folder in classes)
    for folder, files in classes.items():
        for position, file in enumerate(sorted(files)):
            own = folder[-2] if has_folders else {4: "test", 3: "val"}.get(position % 5, "train")
            if own == split:
                pictures.append((archive.read(file), folder[-1]))
    return pictures


def random_crop(data, size, min_scale, rng):
    """A crop of min_scale to 1 of the area, ratio 3/4 to 4/3, mirrored half of the time: bytes [3, height, width]."""
    image = opened(data)
    height, width = size
    box = (0, 0, *image.size)
    for _ in range(10):
        area = rng.uniform(min_scale, 1) * image.size[0] * image.size[1]
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= image.size[0] and h <= image.size[1]:
            left, top = rng.randint(0, image.size[0] - w), rng.randint(0, image.size[1] - h)
            box = (left, top, left + w, top + h)
            break
    pixels = planes(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
    return pixels[:, :, ::-1] if rng.random() < 0.5 else pixels


def centre_crop(data, preprocess):
    """Shorter side to `resize`, then the middle: torchvision's rule, in Pillow's bicubic. Bytes [3, height, width]."""
    image, (height, width) = opened(data), preprocess["crop"]
    size = [int(preprocess["resize"] * side / min(image.size)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return planes(image.crop((left, top, left + width, top + height)))


def normalised(crops, preprocess):
    """bytes [batch, 3, height, width] → f32"""
    mean, std = (torch.tensor(preprocess[key], device=crops.device).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (crops.float() / 255 - mean) / std


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def planes(image):
    return np.asarray(image).transpose(2, 0, 1)
