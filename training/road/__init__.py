"""A road: a folder of recipes that lead from data to a trained model, run by one command.

`steps.py` reads the folder, and `running.py` runs what is not finished: `altclip train FOLDER`.
"""
