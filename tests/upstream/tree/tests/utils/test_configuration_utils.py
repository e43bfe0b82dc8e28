"""Stand in for transformers' file of this name: settings that `ConfigTester` writes and reads back."""

# None of these is the default: a setting that is not read back would show.
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["AltCLIPModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
