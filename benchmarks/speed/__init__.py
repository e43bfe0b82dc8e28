"""Compare our speed and memory with those of other libraries on equal work: `make bench-peers`.

`rows.yaml` lists the comparisons. `side_by_side.py` runs both sides of one in processes of their own
(`worker.py`), `machine.py` describes where they ran, and `report.py` writes the table and the plot. README.md
describes the method.
"""
