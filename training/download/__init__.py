"""Download pictures from a table of addresses with captions, into tars that training reads.

| step | module | what it leaves in the output folder |
|---|---|---|
| each distinct address once, with all of its captions | `addresses.py` | `addresses/` |
| download by img2dataset, in a process and an environment of its own | `running.py` | `00000.tar`, ... |
| the bounds within which that process downloads | `bounded_img2dataset.py` | |
| every tar read by training's own reader, failures by kind | `outcome.py` | `failures.jsonl`, `README.md` |
"""
