"""Compare one text and one image at a time in torch, and in onnxruntime in float32 and int8, with one thread.

python deploy/onnx/run_latency.py
"""

from common.launching import launch

if __name__ == "__main__":
    launch("deploy.onnx.latency_job", one_process=True)
