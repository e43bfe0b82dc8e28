"""Benchmarks as data: a YAML file says where images and texts lie, in which layout, and what is measured."""
