"""What data and models something was made of, their licences, and what follows for the outcome."""

import json
import shutil

import pytest

from common.errors import InputError
from common.licences import TERMS, Licensed, combine, terms_of
from common.origins import Origin, as_records, from_records, read_origins, write_origins
from model_cards.card import Facts, render_card
from model_cards.licences import origin_of_model
from model_cards.stages import find_lineage, origins_of_model
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.parallel_text import read_parallel_text
from training.data.sources.loading import all_source_names, load_source
from training.data.sources.origin import find_origins
from training.data.terms import outcome_of
from training.output_folder import claim, record_sources

CAPTIONS = Licensed(name="captions", licence="CC-BY-NC-4.0", terms=["attribution", "non-commercial"])
WIKI = Licensed(name="wiki", licence="CC-BY-SA-4.0", terms=["attribution", "share-alike"])
TALKS = Licensed(
    name="talks", licence="CC-BY-NC-ND-4.0", terms=["attribution", "non-commercial", "no-derivatives"]
)
FREE = Licensed(name="free", licence="MIT", terms=["attribution"])
OWN = Licensed(name="mine.tsv")


@pytest.mark.parametrize(
    "licence, expected",
    [
        ("CC-BY-4.0", ["attribution"]),
        ("CC-BY-2.0-FR", ["attribution"]),
        ("cc-by-nc-sa-4.0", ["attribution", "share-alike", "non-commercial"]),
        ("CC-BY-NC-ND-4.0", ["attribution", "non-commercial", "no-derivatives"]),
        ("cc0-1.0", []),
        ("apache-2.0", ["attribution"]),
        ("creativeml-openrail-m", ["attribution", "use-restrictions"]),
        ("gpl-3.0", ["attribution", "share-alike"]),
        ("GPL-2.0-or-later", ["attribution", "share-alike"]),
        ("LGPL-2.0-only", ["attribution", "share-alike"]),
        ("cc-by-4.0, mit", ["attribution"]),
        ("CC-BY-SA-4.0, cc-by-nc-4.0", ["attribution", "share-alike", "non-commercial"]),
        ("mit, other", None),
        ("cc-by-nc-4.0 or so", None),
        ("other", None),
        ("", None),
        (None, None),
    ],
)
def test_terms_of_a_licence(licence, expected):
    assert terms_of(licence) == expected


@pytest.mark.parametrize(
    "parts, terms, hub_licence",
    [
        ([], [], "apache-2.0"),
        ([FREE], ["attribution"], "apache-2.0"),
        ([FREE, CAPTIONS], ["attribution", "non-commercial"], "cc-by-nc-4.0"),
        ([FREE, WIKI], ["attribution", "share-alike"], "cc-by-sa-4.0"),
        ([FREE, OWN], ["attribution"], "other"),
        ([TALKS], ["attribution", "non-commercial", "no-derivatives"], "other"),
        ([WIKI, CAPTIONS], ["attribution", "share-alike", "non-commercial"], "other"),
    ],
)
def test_an_outcome_keeps_all_terms(parts, terms, hub_licence):
    outcome = combine(parts)
    assert outcome.terms == terms
    assert outcome.hub_licence == hub_licence


def test_a_sentence_names_who_forces_what_and_what_is_unknown():
    sentence = combine([FREE, CAPTIONS, OWN, CAPTIONS]).sentence
    assert sentence == (
        "As far as its sources state, which have to be read: "
        "not for commercial use: captions (CC-BY-NC-4.0); "
        "with attribution: free (MIT), captions (CC-BY-NC-4.0); "
        "under unknown terms: mine.tsv (licence not stated)."
    )
    assert combine([Licensed(name="nobody's", terms=[])]).sentence.endswith(": nothing is asked for.")


@pytest.mark.parametrize(
    "parts, conflicts",
    [
        ([WIKI, CAPTIONS], [("wiki", "non-commercial, as captions")]),
        ([WIKI, TALKS], [("wiki", "non-commercial, as talks"), ("wiki", "no-derivatives, as talks")]),
        ([WIKI, FREE, OWN], []),
        ([CAPTIONS, TALKS], []),
    ],
)
def test_terms_that_cannot_be_kept_at_once_are_named(parts, conflicts):
    found = combine(parts).conflicts
    assert len(found) == len(conflicts)
    for sentence, (sharing, limit) in zip(found, conflicts):
        assert sentence.startswith(f"Conflict: {sharing} (")
        assert limit in sentence
        assert sentence in combine(parts).sentence


def test_a_licence_that_has_both_terms_does_not_conflict_with_one_of_them():
    both = Licensed(name="both", licence="CC-BY-NC-SA-4.0", terms=terms_of("CC-BY-NC-SA-4.0"))
    assert combine([both, CAPTIONS]).conflicts == []
    assert combine([both, CAPTIONS]).hub_licence == "cc-by-nc-sa-4.0"


def test_origins_are_read_as_they_were_written(tmp_path):
    origins = [
        Origin(name="a", dataset="org/a", revision="0" * 40, rows=3, languages=["en", "no"], terms=[]),
        Origin(name="translator", role="model", licence='CC-BY-NC-4.0: "quoted"', terms=["non-commercial"]),
        Origin(name="日本 corpus.tsv"),
    ]
    write_origins(tmp_path, [*origins, origins[0]])
    assert read_origins(tmp_path) == origins
    assert from_records(as_records(origins), "x") == origins
    assert read_origins(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must list origins"),
        ("just words", "must list origins"),
        ("- {licence: MIT}", "must list origins with a name"),
        ("- {name: a, license: MIT}", "must list origins with a name and the keys name licence terms"),
        ("- {name: a, rows: many}", "rows is 'many', which is no int"),
        ("- {name: a, terms: [no-fun]}", "terms has 'no-fun'; choose from attribution, share-alike"),
        ("- {name: a, role: friend}", "role is 'friend'; choose from data, model"),
        ("- [unclosed", "is no YAML"),
    ],
)
def test_what_are_no_origins_is_refused(tmp_path, text, message):
    (tmp_path / "origins.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        find_origins(str(tmp_path))


def test_a_corpus_says_what_it_is_in_the_languages_that_are_taken():
    source = load_source("laion-coco-nllb")
    assert find_origins("laion-coco-nllb", ["de", "xx"], rows=7) == [
        Origin(
            name="laion-coco-nllb",
            dataset="visheratin/laion-coco-nllb",
            licence=source.licence,
            terms=["attribution", "non-commercial"],
            languages=["en", "de"],
            rows=7,
        )
    ]


@pytest.mark.parametrize("name", all_source_names())
def test_each_corpus_has_an_origin(name):
    (origin,) = find_origins(name)
    assert origin.dataset == load_source(name).dataset
    assert origin.languages or load_source(name).layout == "addresses"
    assert set(origin.terms or []) <= set(TERMS)


def test_data_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.tsv").write_text("en\tde\n", "utf-8")
    absolute = str(tmp_path / "mine.tsv")
    expected = [Origin(name="mine.tsv", rows=2)]
    for data in ("mine.tsv", absolute, "lists/../mine.tsv"):
        assert find_origins(data, rows=2) == expected
    assert combine(expected).unknown == ["mine.tsv (licence not stated)"]

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", "utf-8")
    assert find_origins("folder") == [Origin(name="folder", licence="cc-by-4.0", terms=["attribution"])]
    assert find_origins("org/data") == [Origin(name="org/data", dataset="org/data")]


def test_a_folder_says_what_it_was_made_of(tmp_path):
    made_of = [Origin(name="a", rows=5), Origin(name="translator", role="model")]
    write_origins(tmp_path, made_of)
    assert find_origins(str(tmp_path)) == made_of
    # Of the only source so many rows are taken; of two, nobody knows how many each.
    assert find_origins(str(tmp_path), rows=2)[0].rows == 2
    write_origins(tmp_path, [*made_of, Origin(name="b", rows=6)])
    assert [origin.rows for origin in find_origins(str(tmp_path), rows=2)] == [5, None, 6]


def test_a_source_of_ones_own_in_such_a_folder_is_what_the_folder_was_made_of(tmp_path):
    (tmp_path / "source.yaml").write_text(
        "{layout: columns, dataset: ., splits: {train: train}, kind: human, columns: {captions: {en: en}}}",
        "utf-8",
    )
    source = str(tmp_path / "source.yaml")
    assert [origin.name for origin in find_origins(source)] == ["source"]
    write_origins(tmp_path, [Origin(name="a")])
    assert find_origins(source) == [Origin(name="a")]


def test_models_are_known_by_their_cards_and_by_our_table(tmp_path, monkeypatch):
    assert origin_of_model("facebook/nllb-200-distilled-600M").terms == ["attribution", "non-commercial"]
    assert origin_of_model("openai/clip-vit-large-patch14").terms == ["attribution"]
    assert origin_of_model("org/unknown") == Origin(name="org/unknown", role="model")
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n", "utf-8")
    assert origin_of_model(str(tmp_path)).terms == ["attribution", "share-alike"]


def test_the_licence_of_a_list_of_sources_is_known_beforehand(tmp_path):
    (tmp_path / "mix.yaml").write_text(
        "- {data: tatoeba, rows: 10}\n- {data: wikimatrix}\n- {data: opus-100}\n", "utf-8"
    )
    outcome = outcome_of([str(tmp_path / "mix.yaml")], ["BAAI/AltCLIP"], ["de"])
    assert outcome.terms == ["attribution", "share-alike", "use-restrictions"]
    assert outcome.unknown == ["opus-100 (unknown (card))"]
    assert outcome.conflicts[0].startswith("Conflict: wikimatrix (CC-BY-SA-4.0)")


def listed(tmp_path, sources):
    """Write two parallel texts, and a list of sources."""
    (tmp_path / "one.tsv").write_text("en\tde\na dog\tein Hund\na cat\teine Katze\n", "utf-8")
    (tmp_path / "two.tsv").write_text("en\tfr\na cow\tune vache\n", "utf-8")
    (tmp_path / "list.yaml").write_text(sources, "utf-8")
    return str(tmp_path / "list.yaml")


def test_a_list_states_the_licences_of_data_of_ones_own(tmp_path):
    terms = "terms: [research-only]"
    path = listed(tmp_path, f"- {{data: one.tsv, licence: CC-BY-4.0}}\n- {{data: two.tsv, {terms}}}\n")
    one, two = read_parallel_text(path, "train").origins
    assert (one.name, one.rows, one.languages) == ("one.tsv", 2, ["en", "de"])
    assert (one.licence, one.terms) == ("CC-BY-4.0", ["attribution"])
    assert (two.rows, two.licence, two.terms) == (1, None, ["research-only"])
    assert outcome_of([path]).terms == ["attribution", "research-only"]


@pytest.mark.parametrize(
    "keys, message",
    [
        ("data: one.tsv, licence: 4", "licence of 'one.tsv' in .* is 4: give a text"),
        ("data: one.tsv, terms: attribution", "terms of 'one.tsv' in .* are 'attribution': give a list"),
        ("data: one.tsv, terms: [no-fun]", r"are \['no-fun'\]: give a list of some of attribution"),
        ("data: tatoeba, licence: MIT", "the list states a licence of 'tatoeba', which states its own"),
    ],
)
def test_licences_in_a_list_that_cannot_be_are_refused(tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        outcome_of([listed(tmp_path, f"- {{{keys}}}\n")])


@pytest.fixture
def stages(tmp_path):
    """Record stage 1 on a public corpus and data of one's own, and stage 2 on images, in two folders."""
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    first = TeacherLearningArguments(
        teacher_name_or_path="openai/clip-vit-large-patch14",
        text_encoder_name_or_path="FacebookAI/xlm-roberta-large",
        dataset="wikimatrix",
        output_dir=str(stage1),
    )
    claim(first)
    record_sources(first, [*find_origins("wikimatrix", ["de"], 10), Origin(name="mine.tsv", rows=3)])
    second = ContrastiveArguments(
        model_name_or_path=str(stage1),
        teacher_name_or_path="BAAI/AltCLIP",
        dataset="laion-coco-nllb",
        output_dir=str(stage2),
    )
    claim(second)
    record_sources(second, find_origins("laion-coco-nllb", ["de"]))
    return stage1, stage2


def test_a_record_has_what_its_models_were_made_of(stages):
    _, stage2 = stages
    record = json.loads((stage2 / "run.json").read_text("utf-8"))
    names = [(source.get("stage"), source["name"], source.get("rows")) for source in record["sources"]]
    # The teacher that stage 2 is only compared with is no source.
    assert names == [
        ("stage1", "openai/clip-vit-large-patch14", None),
        ("stage1", "FacebookAI/xlm-roberta-large", None),
        ("stage1", "wikimatrix", 10),
        ("stage1", "mine.tsv", 3),
        (None, "laion-coco-nllb", None),
    ]
    assert record["sources"][2]["licence"] == "CC-BY-SA-4.0"


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_card_names_all_sources_and_what_the_outcome_may_be_used_for(stages, is_gone):
    stage1, stage2 = stages
    if is_gone:
        shutil.rmtree(stage1)
    lineage = find_lineage([str(stage2)])
    card = render_card("T", "me/T", [], ["stage2"], None, "", Facts(lineage=lineage))
    corpus = "wikimatrix (sentence-transformers/parallel-sentences-wikimatrix)"
    for row in (
        "| stage1 | model FacebookAI/xlm-roberta-large |  |  | MIT |",
        f"| stage1 | {corpus} | 10 | en de | CC-BY-SA-4.0 |",
        "| stage1 | mine.tsv | 3 |  | not stated |",
        "| stage2 | laion-coco-nllb (visheratin/laion-coco-nllb) |  | en de | CC-BY-NC-4.0 |",
    ):
        assert card.text.count(f"\n{row}\n") == 1
    assert "## Licence\n\nAs far as its sources state" in card.text
    assert "not for commercial use: laion-coco-nllb (CC-BY-NC-4.0);" in card.text
    assert "under unknown terms: mine.tsv (licence not stated)." in card.text
    assert "Conflict: wikimatrix (CC-BY-SA-4.0)" in card.text
    assert card.data.datasets == [
        "sentence-transformers/parallel-sentences-wikimatrix",
        "visheratin/laion-coco-nllb",
    ]
    assert card.data.license == "other"
    assert card.data.license_name == "terms-of-its-sources"
    assert card.data.license_link == "https://huggingface.co/me/T#licence"
    assert str(stage2.parent) not in str(card)


def test_a_folder_with_origins_is_a_model_made_of_them(stages, tmp_path):
    """As a finished folder, which has no record of a training."""
    finished = tmp_path / "finished"
    finished.mkdir()
    before = find_lineage([str(stages[1])]).origins
    write_origins(finished, before)
    assert origins_of_model(str(finished)) == before
    assert find_lineage([str(finished)]).origins == before


def test_a_recorded_run_that_resumes_has_each_source_once(stages):
    _, stage2 = stages
    before = json.loads((stage2 / "run.json").read_text("utf-8"))["sources"]
    arguments = ContrastiveArguments(
        model_name_or_path=str(stages[0]), dataset="laion-coco-nllb", output_dir=str(stage2)
    )
    record_sources(arguments, find_origins("laion-coco-nllb", ["de"]))
    assert json.loads((stage2 / "run.json").read_text("utf-8"))["sources"] == before


@pytest.mark.parametrize("sources", ['"all"', '[{"name": 3}]', '[{"name": "a", "terms": "none"}]'])
def test_a_record_whose_sources_are_none_is_refused(tmp_path, sources):
    (tmp_path / "run.json").write_text(f'{{"settings": {{}}, "sources": {sources}}}', "utf-8")
    with pytest.raises(InputError, match="is not a training's record"):
        find_lineage([str(tmp_path)])
