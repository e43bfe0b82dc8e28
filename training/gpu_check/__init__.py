"""Check a GPU with `make gpu-check`: real steps of stages 1 and 2, parity, throughput and memory.

Models have random weights and batches are made up, so that nothing is downloaded. `checks.py` lists the
checks, `stages.py` and `parity.py` do them, `running.py` gives each a process of its own, and `table.py`
writes what came of them. Shapes of models are in `shapes.yaml`, peak speeds of GPUs in `peaks.yaml`.
"""
