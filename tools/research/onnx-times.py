"""python tools/research/onnx-times.py FILE.onnx...: milliseconds of the processor a picture takes onnxruntime, one thread, interleaved.

Also which of its integer kernels the graph was turned into. Needs onnxruntime, onnx and numpy.
"""

import collections
import os
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime

ROUNDS = 60


def open_session(file, folder):
    optimised = os.path.join(folder, "optimised.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = optimised
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    kernels = collections.Counter(node.op_type for node in onnx.load(optimised).graph.node)
    names = ["Gemm", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "DequantizeLinear"]
    return session, {name: kernels[name] for name in names if kernels[name]}


def main(files):
    with tempfile.TemporaryDirectory() as folder:
        opened = [open_session(file, folder) for file in files]
    times = [[] for _ in files]
    generator = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for (session, _), taken in zip(opened, times):
            shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
            pixels = generator.standard_normal(shape).astype(np.float32)
            begun = time.process_time()
            session.run(None, {"pixel_values": pixels})
            taken.append(1e3 * (time.process_time() - begun))
    print("onnxruntime", onnxruntime.__version__)
    for file, (_, kernels), taken in zip(files, opened, times):
        print(f"{file}: median {np.median(taken):.1f} ms, fast decile {np.percentile(taken, 10):.1f} ms, {kernels}")


main(sys.argv[1:])
