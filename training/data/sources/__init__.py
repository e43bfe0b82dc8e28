"""Public corpora as data: a YAML file says where a corpus lies, in which layout, and on which terms."""
