"""Compare our speed and memory with those of other libraries on equal work: `make bench-peers`.

`rows.yaml` lists the comparisons. `side_by_side.py` runs both sides of one in processes of their own
(`worker.py`), `instructions.py` limits what they use of the processor, `machine.py` describes where they ran,
and `report.py` writes the table and the plot. `growth` measures our side alone, at several sizes, and
`running.py` is what both have in common. README.md describes the method.
"""
