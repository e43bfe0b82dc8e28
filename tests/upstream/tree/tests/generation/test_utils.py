"""Stand-in for transformers' file of this name: its tests of `generate`, which no CLIP has. The name alone is asked for."""


class GenerationTesterMixin:
    """Inherited by the tests of models that generate text; the common tests check that ours do not."""
