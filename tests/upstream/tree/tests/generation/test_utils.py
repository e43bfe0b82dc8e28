"""Stand in for transformers' file of this name, its tests of `generate`: the common tests import the name."""


class GenerationTesterMixin:
    """Inherited by the tests of models that generate text; the common tests check that ours do not."""
