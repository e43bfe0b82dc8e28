"""A table of hostile inputs, a file for each subject: `make hostile`."""
