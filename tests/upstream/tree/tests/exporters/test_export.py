"""Stand in for transformers' file of this name, its tests of export, which the sdist leaves out."""


class ExportTesterMixin:
    """Inherited by `ModelTesterMixin`; here without tests."""
