"""The page in Gradio 6: three tabs, whose answers are those of `demo` as HTML.

Gradio sends nothing home: its telemetry is off, and so is its tunnel to a public address.
"""

from functools import partial
from pathlib import Path

from common.extras import of_extra

from .demo import Demo
from .markup import compared, found_pictures, or_problem, preview, ranked_labels

with of_extra("page"):
    import gradio as gr

_CSS = Path(__file__).with_name("page.css")
_UPLOAD = "100mb"  # of a file; its pixels have bounds of their own
_HOUR = 3600  # seconds until uploaded files are removed
_AT_ONCE = 4  # requests of a kind that are answered at the same time
# The page is for people; programs call our functions.
_PRIVATE = {"api_visibility": "private"}


def build_page(
    demo: Demo, *, title: str, queries: list[str], labels: list[str], attribution: str
) -> gr.Blocks:
    """Build the page.

    Args:
        queries: one text in several languages, to begin with.
        labels: class names, to begin with.
        attribution: whose the pictures are, in Markdown.
    """
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.Markdown(f"# {title}")
        with gr.Tab("Search"):
            _add_search(demo, queries)
        with gr.Tab("Classify"):
            _add_classification(demo, labels)
        with gr.Tab("Compare"):
            _add_comparison(demo, queries)
        if attribution:
            with gr.Accordion("Pictures and licences", open=False):
                gr.Markdown(attribution)
    return page.queue(default_concurrency_limit=_AT_ONCE)


def serve(page: gr.Blocks, host: str | None, port: int | None) -> str:
    """Start to serve a page, and return its address.

    Args:
        host: by default this machine alone, or what the environment says, as on a Space.
        port: by default the first free one from 7860 on.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,  # the server in Node, which Spaces turn on, would be another page to test
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=_UPLOAD,
        footer_links=[],
        css_paths=_CSS,
    )
    return address


def _add_search(demo: Demo, queries: list[str]) -> None:
    """Search by text, by picture, or by both."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            text = gr.Textbox(label="Text in any language", max_lines=3)
            if queries:
                gr.Examples([[query] for query in queries], text, label="Try")
            picture = _add_picture(demo, "Picture (instead of a text, or with it)")
            text_weight = gr.Slider(0, 1, 0.5, label="Share of the text, where there is a picture too")
            button = gr.Button("Search", variant="primary")
        with gr.Column(scale=3, min_width=320):
            found = gr.HTML()

    def search(*given) -> str:
        return found_pictures(demo, demo.search(*given))

    inputs = [text, picture, text_weight]
    gr.on([button.click, text.submit], or_problem(search), inputs, found, **_PRIVATE)


def _add_classification(demo: Demo, labels: list[str]) -> None:
    """Classify a picture by labels that the visitor writes."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            picture = _add_picture(demo, "Picture")
            lines = gr.Textbox("\n".join(labels), label="Labels, one on each line", lines=6, max_lines=12)
            template = gr.Textbox("{}", label="Sentence around a label", info="{} is the label.")
            button = gr.Button("Classify", variant="primary")
        with gr.Column(scale=3, min_width=320):
            ranked = gr.HTML()

    def classify(*given) -> str:
        return ranked_labels(demo.classify(*given))

    inputs = [picture, lines, template]
    gr.on([button.click, template.submit], or_problem(classify), inputs, ranked, **_PRIVATE)


def _add_comparison(demo: Demo, queries: list[str]) -> None:
    """Compare what one query finds in several languages."""
    label = "The same query in several languages, one on each line"
    lines = gr.Textbox("\n".join(queries), label=label, lines=4, max_lines=10)
    button = gr.Button("Compare", variant="primary")
    answers = gr.HTML()

    def compare(text: str) -> str:
        return compared(demo, demo.compare(text))

    button.click(or_problem(compare), lines, answers, **_PRIVATE)


def _add_picture(demo: Demo, label: str) -> gr.File:
    """Add a field for a picture, and show what is put into it, or why it cannot be read.

    `gr.Image` would decode it before our bounds are looked at.
    """
    picture = gr.File(label=label, file_types=["image"], type="binary", height=150)
    shown = gr.HTML()
    picture.change(or_problem(partial(preview, demo)), picture, shown, **_PRIVATE)
    return picture


__all__ = ["build_page", "serve"]
