"""Measure how the cost of our side of a row grows with the size of its work: `make bench-growth`.

`curves.yaml` lists the curves, each a row of `../rows.yaml` at several sizes. `curves.py` reads them,
`measuring.py` runs them in the workers of the comparisons, `fit.py` fits power laws to the costs, and
`report.py` writes the table, the plots and a sentence on each curve.
"""
