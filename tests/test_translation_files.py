"""Check files of translations: each format, compressed or not, what is skipped and why, and hostile files."""

import bz2
import gzip
import json
import os
import struct
import tracemalloc
import zipfile
from collections import Counter

import pyarrow as pa
import pytest

from common.errors import InputError
from common.languages import language_of_tag
from training.data.formats.documents import Document, documents_in
from training.data.formats.entries import as_entry
from training.data.formats.mnemonics import without_mnemonics
from training.data.formats.reading import entries_of, find_translations
from training.data.parallel_text import load_parallel_text, only_captions, read_parallel_text
from training.data.preview import read_head

TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-US"><note>unread</note></header><body>
  <tu><prop type="x">unread</prop>
    <tuv xml:lang="en-US"><note>unread</note>
      <seg>Press <bpt i="1">&lt;b&gt;</bpt>here<ept i="1"/> &amp; now.</seg></tuv>
    <tuv xml:lang="deu"><seg>Hier
      <hi>drücken<ph><sub>unread</sub></ph></hi>, jetzt.</seg></tuv>
  </tu>
  <tu><tuv lang="EN-us"><seg>a dog</seg></tuv><tuv lang="de"><seg>ein Hund</seg></tuv></tu>
  <tu><tuv xml:lang="en"><seg>alone</seg></tuv></tu>
  <tu><tuv xml:lang="en"><seg> </seg></tuv><tuv xml:lang="de"><seg/></tuv></tu>
  <tu><tuv xml:lang="en"><seg>one</seg></tuv><tuv xml:lang="en-us"/><tuv xml:lang="de"><seg>eins</seg></tuv>
    <tuv xml:lang="deu"><seg>ein</seg></tuv></tu>
  <tu><tuv xml:lang="en"><seg>one</seg></tuv><tuv xml:lang="*all*"><seg>1</seg></tuv></tu>
</body></tmx>
"""
XLIFF_1 = """<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">
<file source-language="en" target-language="de-DE" original="a"><header/><body><group>
  <trans-unit id="1"><source>Press <g id="1">here</g><x id="2"/></source>
    <target state="translated"><ph id="3">%s</ph>Hier <mrk mtype="x">drücken</mrk></target>
    <alt-trans><source>unread</source><target>unread</target></alt-trans></trans-unit>
  <trans-unit id="2"><source>a dog</source></trans-unit>
  <trans-unit id="3"><source>a cat</source><target state="new">a cat</target></trans-unit>
  <trans-unit id="4"><source>a cat</source>
    <target state="needs-review-translation">Katze</target></trans-unit>
  <trans-unit id="5" translate="no"><source>x</source><target>y</target></trans-unit>
  <trans-unit id="6"><source>a hen</source><target>  </target></trans-unit>
  </group><group restype="x-gettext-plurals">
  <trans-unit id="7"><source>a key</source><target>Schlüssel</target></trans-unit></group>
</body></file></xliff>
"""
XLIFF_2 = """<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en" trgLang="de-DE">
<file id="f"><unit id="u"><originalData><data id="d">unread</data></originalData>
  <segment state="final"><source>Press <pc id="1">here</pc></source>
    <target>Hier <ph id="2" dataRef="d"/>drücken</target></segment>
  <ignorable><source>unread</source></ignorable>
  <segment state="initial"><source>a cat</source><target>a cat</target></segment>
  <segment><source>a dog</source></segment></unit>
  <unit id="v" translate="no"><segment><source>x</source><target>y</target></segment></unit>
</file></xliff>
"""
TEI = """<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="fr">
<teiHeader><p xml:lang="fr">unread</p></teiHeader>
<text xml:lang="fr"><body>
  <entry><form><orth>Hund</orth><pron>unread</pron></form><gramGrp><pos>n</pos></gramGrp>
    <sense><cit type="trans"><quote>dog</quote><gramGrp><gen>m</gen></gramGrp></cit><sense>
      <cit type="trans" xml:lang="en-GB"><quote>big
        hound</quote></cit></sense>
      <cit type="dicteg"><quote>der Hund bellt</quote>
        <cit type="trans"><quote>the dog barks</quote></cit></cit>
      <re><form><orth>unread</orth></form><sense><cit type="trans"><quote>unread</quote></cit></sense></re>
    </sense></entry>
  <entry><form><orth>Katze</orth></form><sense><def>unread</def></sense></entry>
  <entry><form><orth/></form><sense><cit type="trans"><quote/></cit></sense></entry>
</body></text></TEI>
"""
TEI_OF_DEFINITIONS = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body>
  <entry><form xml:lang="sw"><orth>abudu</orth></form><gramGrp><pos>v</pos></gramGrp>
    <sense><def>worship, revere; quit, stop
      doing</def></sense></entry>
  <entry><form><orth>abiria</orth></form><sense xml:lang="en-GB"><def>passenger</def></sense></entry>
  <entry><form><orth>acha</orth></form><sense><note>unread</note></sense></entry>
</body></text></TEI>
"""
TEI_OF_NO_NAME = """<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="fr">
<text xml:lang="fr"><body xml:lang="de">
  <entry><form><orth>Hund</orth></form>
    <sense><cit type="trans" xml:lang="en"><quote>dog</quote></cit></sense></entry>
  <entry xml:lang="it"><form><orth>cane</orth></form>
    <sense><cit type="trans" xml:lang="en"><quote>dog</quote></cit></sense></entry>
</body></text></TEI>
"""
PO = """# comment
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Language: de_DE\\n"

#: a.c:1
msgctxt "menu"
msgid "a \\"dog\\" "
"barks\\n"
msgstr "ein \\"Hund\\" bellt\\n"

#, fuzzy
msgid "a cat"
msgstr "ein Hund"

msgid "a hen"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

msgid "a key"
msgstr "  "

#~ msgid "old"
#~ msgstr "alt"
"""
PRESS = [{"en": "Press here", "de-DE": "Hier drücken"}]

# A name, the text, the rows, and what is skipped.
FORMATS = {
    "a.tmx": (
        TMX,
        [{"en": "Press here & now.", "de": "Hier drücken, jetzt."}, {"en": "a dog", "de": "ein Hund"}],
        {"untranslated": 1, "empty": 1, "with two texts in one language": 1, "in no known language": 1},
    ),
    "a.xliff": (
        XLIFF_1,
        PRESS,
        {"untranslated": 3, "fuzzy": 1, "not to be translated": 1, "plural": 1},
    ),
    "a.xlf": (XLIFF_2, PRESS, {"untranslated": 2, "not to be translated": 1}),
    "deu-eng.tei": (
        TEI,
        [
            {"de": "Hund", "en": "dog"},
            {"de": "Hund", "en": "big hound"},
            {"de": "der Hund bellt", "en": "the dog barks"},
        ],
        {"untranslated": 1, "empty": 1},
    ),
    "words.tei": (TEI_OF_NO_NAME, [{"de": "Hund", "en": "dog"}, {"it": "cane", "en": "dog"}], {}),
    "swh-eng.tei": (
        TEI_OF_DEFINITIONS,
        [
            {"sw": "abudu", "en": "worship"},
            {"sw": "abudu", "en": "revere"},
            {"sw": "abudu", "en": "quit"},
            {"sw": "abudu", "en": "stop doing"},
            {"sw": "abiria", "en": "passenger"},
        ],
        {"untranslated": 1},
    ),
    "a.po": (
        PO,
        [{"en": 'a "dog" barks', "de-DE": 'ein "Hund" bellt'}],
        {"fuzzy": 1, "untranslated": 2, "plural": 1, "obsolete": 1},
    ),
}


def needs_polib(name):
    if name.endswith((".po", ".mo")):
        pytest.importorskip("polib")


def texts_of(rows):
    """Return the texts that each row has: `{"en": ["a dog"], "fr": []}` -> `{"en": "a dog"}`."""
    found = []
    for row in rows["captions"]:
        assert all(len(texts) <= 1 for texts in row.values())
        found.append({language: texts[0] for language, texts in row.items() if texts})
    return found


def check(path, rows, skipped):
    text = read_parallel_text(str(path), "train")
    assert texts_of(text.rows) == rows
    assert text.skipped == Counter(skipped)
    assert text.rows.column_names == ["captions"]
    # A dry run reads the same rows.
    head = texts_of(only_captions(read_head(str(path), None, "train"), str(path)))
    assert head == rows


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(tmp_path, name):
    needs_polib(name)
    text, rows, skipped = FORMATS[name]
    (tmp_path / name).write_text(text, "utf-8")
    check(tmp_path / name, rows, skipped)


def compress_zstd(content):
    return bytes(pa.compress(content, "zstd"))


@pytest.mark.parametrize(
    "ending,compress", [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", compress_zstd)]
)
def test_compressed_files(tmp_path, ending, compress):
    text, rows, skipped = FORMATS["deu-eng.tei"]
    path = tmp_path / f"deu-eng.tei.{ending}"
    path.write_bytes(compress(text.encode()))
    check(path, rows, skipped)


def test_a_zip_and_a_folder_of_several_formats(tmp_path):
    pytest.importorskip("polib")
    members = {f"memory/{name}": text for name, (text, _, _) in FORMATS.items()}
    others = {"README": "unread", "__MACOSX/memory/a.tmx": "unread", "memory/.a.tmx": "unread"}
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (members | others).items():
            archive.writestr(name, text)
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_text(text, "utf-8")

    rows = []
    skipped = Counter()
    for name in sorted(FORMATS):
        rows += FORMATS[name][1]
        skipped += Counter(FORMATS[name][2])
    for path in ("m.zip", "folder"):
        text = read_parallel_text(str(tmp_path / path), "train")
        assert texts_of(text.rows) == rows
        assert text.skipped == skipped


def test_files_of_translations_stand_in_a_list_of_sources(tmp_path):
    (tmp_path / "a.tmx").write_text(TMX, "utf-8")
    (tmp_path / "t.tsv").write_text("en\tzh\na dog\t狗\n\t猫\n", "utf-8")
    (tmp_path / "s.yaml").write_text("- {data: a.tmx, weight: 2}\n- {data: t.tsv}\n", "utf-8")
    text = read_parallel_text(str(tmp_path / "s.yaml"), "train")
    assert texts_of(text.rows)[2] == {"en": "a dog", "zh": "狗"}
    assert text.rows["weight"][:] == [2, 2, 1]
    reasons = "1 untranslated, 1 empty, 1 with two texts in one language, 1 in no known language"
    assert text.describe_skipped() == f"Skipped 1 rows without English, {reasons}."
    assert load_parallel_text(str(tmp_path / "s.yaml"), "train")[1] == 5


def test_a_folder_of_tables_is_none_of_translations(tmp_path):
    (tmp_path / "train.tsv").write_text("en\tzh\na dog\t狗\n", "utf-8")
    assert find_translations(str(tmp_path)) == ()
    assert find_translations(str(tmp_path / "train.tsv")) == ()
    assert find_translations("org/name") == ()
    assert find_translations("x" * 5000) == ()
    # A file of the same kind beside the table leaves it as it is.
    (tmp_path / "a.tmx").write_text(TMX, "utf-8")
    assert find_translations(str(tmp_path)) == ()


def test_a_changed_file_of_the_same_size_and_time_is_read_anew(tmp_path):
    path = tmp_path / "a.tmx"
    for word in ("Hund", "Wolf"):
        path.write_text(TMX.replace("Hund", word), "utf-8")
        os.utime(path, (1, 1))
        assert texts_of(load_parallel_text(str(path), "train")[0])[1]["de"] == f"ein {word}"


def test_a_memory_without_a_translation_names_the_reasons(tmp_path):
    path = tmp_path / "a.tmx"
    path.write_text(TMX.replace('"de', '"und-'), "utf-8")
    with pytest.raises(InputError, match="has no translated entry, .*in no known language"):
        load_parallel_text(str(path), "train")
    with pytest.raises(InputError, match="has no translated entry"):
        read_head(str(path), None, "train")
    path.write_text("<tmx/>")
    with pytest.raises(InputError, match="has no entries: give a file with translations"):
        load_parallel_text(str(path), "train")


# Tags, and what `--languages` calls them.
@pytest.mark.parametrize(
    "tag,language",
    [
        ("en-US", "en-US"),
        ("EN_us", "en-US"),
        ("deu", "de"),
        ("ger", "de"),
        ("cmn", "zh"),
        ("yue", "yue"),
        ("zh-yue", "yue"),
        ("zh-cmn-Hans-CN", "zh-Hans-CN"),
        ("zh_Hant", "zh-Hant"),
        ("pes", "fa"),
        ("arb", "ar"),
        ("arz", "arz"),
        ("nob", "nb"),
        ("lvs", "lv"),
        ("hau", "ha"),
        ("tgl", "tl"),
        ("pt_BR.UTF-8", "pt-BR"),
        ("de_DE@euro", "de-DE"),
        ("sr@latin", "sr-Latn"),
        ("sr_RS@cyrillic", "sr-Cyrl-RS"),
        ("de-1996", "de"),
        ("ca-ES-valencia", "ca-ES"),
        ("en-US-u-co-phonebk", "en-US"),
        ("de-x-private", "de"),
        ("es-419", "es-419"),
        ("zh-min-nan", "nan"),
        (" fr ", "fr"),
        ("und", None),
        ("mul", None),
        ("x-klingon", None),
        ("*all*", None),
        ("English", None),
        ("", None),
        (None, None),
        ("a" * 10**6, None),
        ("en" + "-abcde" * 10**5, None),
    ],
)
def test_tags_of_languages(tag, language):
    assert language_of_tag(tag) == language


def test_codes_of_three_letters_are_those_of_langcodes():
    """Every language with a code of two letters; langcodes has the registries of BCP 47 and CLDR."""
    langcodes = pytest.importorskip("langcodes")
    from langcodes.data_dicts import LANGUAGE_ALPHA3, LANGUAGE_ALPHA3_BIBLIOGRAPHIC

    codes = {*LANGUAGE_ALPHA3.values(), *LANGUAGE_ALPHA3_BIBLIOGRAPHIC.values()}
    codes -= {"mol", "twi"}  # Moldavian and Twi, which CLDR calls Romanian and Akan
    checked = 0
    for code in codes:
        standard = langcodes.standardize_tag(code, macro=True)
        if len(standard) == 2:
            assert language_of_tag(code) == standard, code
            checked += 1
    assert checked > 200


def test_one_english_of_an_entry_is_that_of_the_teacher():
    assert as_entry([("en-GB", "lorry"), ("de", "Lkw")]).texts == {"en": "lorry", "de": "Lkw"}
    both = {"en-GB": "lorry", "en-US": "truck"}
    assert as_entry(both.items()).texts == both


def test_a_mo_has_the_same_texts_as_its_po(tmp_path):
    polib = pytest.importorskip("polib")
    polib.pofile(PO).save_as_mofile(str(tmp_path / "a.mo"))
    # A compiled catalogue has no entries that are fuzzy, obsolete or untranslated.
    check(tmp_path / "a.mo", FORMATS["a.po"][1], {"plural": 1, "empty": 0, "untranslated": 1})


@pytest.mark.parametrize(
    "name,language",
    [("de.po", "de"), ("app.pt_BR.po", "pt-BR"), ("locale/ja/LC_MESSAGES/app.po", "ja"), ("app.po", None)],
)
def test_the_language_of_a_catalogue_may_stand_in_its_name(tmp_path, name, language):
    pytest.importorskip("polib")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PO.replace('"Language: de_DE\\n"\n', ""), "utf-8")
    if language is None:
        with pytest.raises(InputError, match="does not say its language: add 'Language: de'"):
            load_parallel_text(str(path), "train")
        return
    assert language in load_parallel_text(str(path), "train")[0].features["captions"]


def test_a_header_may_name_its_language_in_words(tmp_path):
    pytest.importorskip("polib")
    (tmp_path / "de.po").write_text(PO.replace("Language: de_DE", "Language: German"), "utf-8")
    assert "de" in load_parallel_text(str(tmp_path / "de.po"), "train")[0].features["captions"]


@pytest.mark.parametrize(
    "marked,plain",
    [
        (("_File", "_Datei"), ("File", "Datei")),
        (("&Open…", "打开(&O)…"), ("Open…", "打开…")),
        (("_File", "文件 (_F)"), ("File", "文件")),
        (("E_xit", "Be_enden"), ("Exit", "Beenden")),
        (("_File", "Datei"), ("File", "Datei")),
        (("Rich Te&xt", "Nur Rich-Te&xt"), ("Rich Text", "Nur Rich-Text")),
    ],
)
def test_marks_of_mnemonics_are_removed(marked, plain):
    assert without_mnemonics(*marked) == plain


@pytest.mark.parametrize(
    "texts",
    [
        ("Set default_width", "default_width festlegen"),
        ("Set default_width", "Breite festlegen"),
        ("_File _Open", "_Datei"),
        ("AT&T", "AT&T"),
        ("salt & pepper", "Salz & Pfeffer"),
        ("a &lt; b", "a &lt; b"),
        ("__init__", "__init__"),
        ("plain", "schlicht"),
    ],
)
def test_other_signs_stay(texts):
    assert without_mnemonics(*texts) == texts


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1251"])
def test_a_catalogue_is_read_in_the_encoding_that_it_states(tmp_path, encoding):
    pytest.importorskip("polib")
    path = tmp_path / "a.po"
    word = "собака" if encoding == "cp1251" else "Hünd"
    stated = encoding.removesuffix("-sig")
    text = PO.replace("charset=UTF-8", f"charset={stated}").replace("Hund", word)
    path.write_bytes(text.encode(encoding))
    if encoding == "utf-16":  # gettext allows none that ASCII is no part of
        with pytest.raises(InputError, match="is not utf-8"):
            load_parallel_text(str(path), "train")
        return
    assert word in texts_of(load_parallel_text(str(path), "train")[0])[0]["de-DE"]


def test_a_catalogue_that_is_the_path_of_another_opens_nothing(tmp_path):
    pytest.importorskip("polib")
    (tmp_path / "other.po").write_text(PO, "utf-8")
    (tmp_path / "de.po").write_text(str(tmp_path / "other.po"))
    with pytest.raises(InputError, match="Syntax error"):
        load_parallel_text(str(tmp_path / "de.po"), "train")


def test_a_catalogue_may_translate_from_another_language(tmp_path):
    pytest.importorskip("polib")
    languages = '"Language: en_GB\\n"\n"X-Source-Language: fr\\n"'
    (tmp_path / "a.po").write_text(PO.replace('"Language: de_DE\\n"', languages), "utf-8")
    assert list(load_parallel_text(str(tmp_path / "a.po"), "train")[0].features["captions"]) == ["en", "fr"]


def test_a_text_of_xliff_may_have_a_language_of_its_own(tmp_path):
    text = XLIFF_1.replace('<target state="translated">', '<target xml:lang="fr">')
    (tmp_path / "a.xlf").write_text(text, "utf-8")
    assert texts_of(load_parallel_text(str(tmp_path / "a.xlf"), "train")[0])[0]["fr"] == "Hier drücken"


def test_other_line_ends_stay_within_a_text(tmp_path):
    pytest.importorskip("polib")
    (tmp_path / "a.po").write_text(PO.replace("Hund", "Hu\u2028n\x85d"), "utf-8")
    assert "Hu\u2028n\x85d" in texts_of(load_parallel_text(str(tmp_path / "a.po"), "train")[0])[0]["de-DE"]


SENTENCES = """1\teng\tA dog "barks.
2\tcmn\t狗叫。
3\tdeu\tEin Hund bellt.
4\teng\tThe dog is barking.
5\t\\N\tperro
6\tfra\tUn chien aboie.
"""
# Both ways, or one way only; to a sentence that is not there.
LINKS = "1\t2\n2\t1\n3\t1\n1\t4\n5\t1\n3\t6\n6\t3\n1\t99\n99\t1\n"
TATOEBA = [{"en": 'A dog "barks.', "zh": "狗叫。"}, {"en": 'A dog "barks.', "de": "Ein Hund bellt."}]
UNLINKED = {
    "without English": 1,
    "of a sentence that is not there": 1,
    "with two texts in one language": 1,
    "in no known language": 1,
}


@pytest.mark.parametrize("form", ["plain", "detailed", "both", "pair", "bz2", "zip"])
def test_tatoeba(tmp_path, form):
    details = SENTENCES.replace("\n", "\tuser\t2010-01-01 00:00:00\t\\N\n")
    files = {"links.csv": LINKS, "sentences.csv": SENTENCES}
    if form == "detailed":
        files = {"links.csv": LINKS, "sentences_detailed.csv": details, "tags.csv": "1\tanimal\n"}
    if form == "both":
        files["sentences_detailed.csv"] = details
    if form == "pair":
        english = "".join(line for line in SENTENCES.splitlines(True) if "eng" in line)
        others = SENTENCES.replace(english, "")
        others = "".join(line for line in SENTENCES.splitlines(True) if "eng" not in line)
        files = {"eng-mul_links.tsv": LINKS, "eng_sentences.tsv": english, "mul_sentences.tsv": others}
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return check(tmp_path / "t.zip", TATOEBA, UNLINKED)
    for name, text in files.items():
        content = text.encode()
        if form == "bz2":
            name, content = f"{name}.bz2", bz2.compress(content)
        (tmp_path / name).write_bytes(content)
    check(tmp_path, TATOEBA, UNLINKED)
    check(
        tmp_path / next(iter(sorted(path for path in os.listdir(tmp_path) if "links" in path))),
        TATOEBA,
        UNLINKED,
    )


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("links.csv", b"1\t2\tx\n1\n", "must have the columns id, other"),
        ("links.csv", b"1\ttwo\n", "must have the columns id, other"),
        ("links.csv", b"-1\t2\n", "has an id out of range"),
        ("links.csv", b"1\t2147483648\n", "has an id out of range"),
        ("links.csv", b"", "is empty"),
        ("sentences.csv", b"1\teng\n", "must have the columns id, language, text"),
        ("sentences.csv", b"1\teng\ta\n1\teng\tb\n", "sentence 1 is twice"),
        ("sentences.csv", b"1\teng\t\xff\n", "UTF-8|UTF8"),
    ],
)
def test_tables_that_are_none_of_tatoeba(tmp_path, name, content, message):
    (tmp_path / "links.csv").write_text(LINKS)
    (tmp_path / "sentences.csv").write_text(SENTENCES, "utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_parallel_text(str(tmp_path), "train")
    assert "\n" not in str(error.value)


def names_of(locale, kind, names):
    return json.dumps({"main": {locale: {"identity": {}, "localeDisplayNames": {kind: names}}}})


def test_names_of_cldr(tmp_path):
    files = {
        "main/en/languages.json": names_of("en", "languages", {"de": "German", "aa": "Afar", "zh": "zh"}),
        "main/de/languages.json": names_of("de", "languages", {"de": "Deutsch", "aa": "aa"}),
        "main/ca/languages.json": names_of("ca", "languages", {"de": "alemany"}),
        "main/ca-ES-valencia/languages.json": names_of("ca-ES-valencia", "languages", {"de": "alemà"}),
        "main/ca-ES/languages.json": names_of("ca-ES", "languages", {"de": "alemany"}),
        "main/zh-Hant/territories.json": names_of("zh-Hant", "territories", {"DE": "德國"}),
        "main/en/territories.json": names_of("en", "territories", {"DE": "Germany"}),
        "main/en/variants.json": "unread",
        "package.json": "{}",
    }
    rows = [
        {"en": "German", "de": "Deutsch", "ca": "alemany", "ca-ES": "alemany"},
        {"en": "Germany", "zh-Hant": "德國"},
    ]
    skipped = {"untranslated": 3}
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name, text in files.items():
            (tmp_path / "cldr" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cldr" / name).write_text(text, "utf-8")
            archive.writestr(f"cldr-json/{name}", text)
    for path in ("c.zip", "cldr", "cldr/main"):
        text = read_parallel_text(str(tmp_path / path), "train")
        assert texts_of(text.rows) == rows
        assert text.skipped == Counter(skipped)

    (tmp_path / "cldr/main/de/languages.json").write_text('{"main": {"en": {}}}')
    with pytest.raises(InputError, match="has no names in main, de, localeDisplayNames, languages"):
        load_parallel_text(str(tmp_path / "cldr"), "train")


def test_names_of_emoji(tmp_path):
    def write(locale, annotations):
        path = tmp_path / "annotations" / locale / "annotations.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"annotations": {"annotations": annotations}}), "utf-8")
        return path

    write("en", {"🐕": {"default": ["pet"], "tts": ["dog"]}, "🐈": {"tts": ["cat"]}})
    write("de", {"🐕": {"tts": ["Hund"]}, "🐈": {"default": ["Tier"]}})
    text = read_parallel_text(str(tmp_path), "train")
    assert texts_of(text.rows) == [{"en": "dog", "de": "Hund"}]
    assert text.skipped == Counter({"untranslated": 1})

    write("fr", []).write_text("[]")
    with pytest.raises(InputError, match="has no names in annotations, annotations"):
        load_parallel_text(str(tmp_path), "train")


BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
SECRET = '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
UNIT = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="de"><seg>b</seg></tuv></tu>'


def tmx(inside="", before="", text="a"):
    return f"{before}<tmx><body>{UNIT.format(text)}{inside}</body></tmx>"


# What the file has, and what the error says.
HOSTILE = {
    "entities that explode": (tmx(before=BOMB, text="&b;"), "declares entities or elements of its own"),
    "an entity that is a file": (tmx(before=SECRET, text="&a;"), "declares entities or elements of its own"),
    "a parameter of a file": (
        tmx(before='<!DOCTYPE tmx [<!ENTITY % a SYSTEM "http://127.0.0.1/a">%a;]>'),
        "declares entities or elements",
    ),
    "attributes by default": (tmx(before="<!DOCTYPE tmx [<!ATTLIST seg x CDATA 'y'>]>"), "declares entities"),
    "an entity of an outer type": (
        tmx(before='<!DOCTYPE tmx SYSTEM "file:///etc/hostname">', text="&a;"),
        "is no XML that can be read, undefined entity",
    ),
    "an entity of nobody": (tmx(text="&a;"), "undefined entity"),
    "no end": (tmx()[:-9], "is no XML that can be read"),
    "no content": ("", "is no XML that can be read, no element found"),
    "NUL": (tmx(text="\0"), "is no XML that can be read"),
    "two roots": (tmx() * 2, "junk after document element"),
    "an unknown encoding": (tmx(before='<?xml version="1.0" encoding="x-none"?>'), "encoding"),
    "an encoding of several bytes": (tmx(before='<?xml version="1.0" encoding="big5"?>'), "encoding"),
    "1,000 levels": (tmx("<tu>" * 1000 + "</tu>" * 1000), "has elements in 200 others"),
    "a comment of 20 MB": (tmx(f"<!--{' ' * 20_000_000}-->"), "bytes without an element"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_is_refused_in_one_line(tmp_path, name):
    text, message = HOSTILE[name]
    for file in ("a.tmx", "a.xlf", "deu-eng.tei"):
        path = tmp_path / file
        path.write_text(text, "utf-8")
        if file != "a.tmx" and name in ("a comment of 20 MB", "1,000 levels"):
            continue
        with pytest.raises(InputError, match=message) as error:
            list(entries_of(find_translations(str(path))))
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_a_wrong_encoding_is_refused(tmp_path):
    (tmp_path / "a.tmx").write_bytes(TMX.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.tmx' is no XML that can be read, not well-formed"):
        load_parallel_text(str(tmp_path / "a.tmx"), "train")
    # One that the file states, or marks, is read.
    for encoding in ("utf-16", "latin-1", "windows-1252"):
        text = TMX.replace("UTF-8", encoding)
        (tmp_path / "a.tmx").write_bytes(text.encode(encoding))
        check(tmp_path / "a.tmx", *FORMATS["a.tmx"][1:])


@pytest.mark.parametrize(
    "ending,compress", [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", compress_zstd)]
)
def test_half_of_a_compressed_file_is_refused(tmp_path, ending, compress):
    content = compress(os.urandom(1000).hex().join(["<tmx><body><!--", "--></body></tmx>"]).encode())
    path = tmp_path / f"a.tmx.{ending}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"a.tmx.{ending}' (cannot|is no XML that can) be read"):
        load_parallel_text(str(path), "train")


def test_zips_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tmx", TMX)
    whole = path.read_bytes()

    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="is no zip that can be read"):
        load_parallel_text(str(path), "train")
    path.write_bytes(whole.replace(b"ein Hund", b"ein Wolf"))
    with pytest.raises(InputError, match=r"a.zip/a.tmx' cannot be read: Bad CRC-32"):
        load_parallel_text(str(path), "train")
    # The flag of a member that is encrypted, in both of its headers.
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(InputError, match="encrypted"):
        load_parallel_text(str(path), "train")

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"")
    with pytest.raises(InputError, match=r"or files of translations; it has .*\.jpg: unpack it"):
        load_parallel_text(str(path), "train")


def test_a_zip_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("common.files.archives._HARMLESS", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tmx", " " * 10**6)
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(b" " * 10**6))
    for name in ("a.zip", "a.tmx.gz"):
        with pytest.raises(InputError, match="unpacks to"):
            load_parallel_text(str(tmp_path / name), "train")


def mo(*words):
    return b"\xde\x12\x04\x95" + struct.pack(f"<{len(words)}I", *words)


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("de.po", b'msgid "a" "b"\nmsgstr "c"\n', "unescaped double quote"),
        ("de.po", b"msgid a\n\xff", "is not utf-8"),
        ("de.po", b'msgid ""\nmsgstr "charset=x-none"\n', "unknown encoding"),
        ("de.po", b'msgid ""\n' + b'"a"\n' * 10_001, "a text of more than 10,000 lines"),
        ("de.po", b"", "has no entries"),
        ("de.mo", b"", "it is no .mo"),
        ("de.mo", b"/etc/hostname", "it is no .mo"),
        ("de.mo", mo(0, 2**31, 28, 28, 0, 0), "fewer texts than it states"),
        # Two texts that both take the whole file.
        ("de.mo", mo(0, 2, 28, 44, 0, 0, 80, 0, 80, 0, 80, 0, 80, 0), "longer than the file"),
        ("de.mo", mo(9 << 16, 0, 28, 28, 0, 0), "major revision"),
    ],
)
def test_hostile_catalogues_are_refused_in_one_line(tmp_path, name, content, message):
    pytest.importorskip("polib")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_parallel_text(str(tmp_path / name), "train")
    assert "\n" not in str(error.value)


def test_a_country_that_is_no_language_is_refused(tmp_path):
    (tmp_path / "a.tmx").write_text(TMX.replace('"de"', '"cn"').replace('"deu"', '"cn"'), "utf-8")
    with pytest.raises(InputError, match="'cn' is a country's code and no language's: did you mean 'zh'"):
        load_parallel_text(str(tmp_path / "a.tmx"), "train")


def test_what_is_read_is_forgotten(tmp_path):
    """A memory of 20 MB takes little more than a chunk of it."""
    (tmp_path / "a.tmx").write_text(tmx(UNIT.format("a" * 10_000) * 2_000), "utf-8")
    tracemalloc.start()
    n_entries = sum(1 for _ in entries_of((Document(str(tmp_path / "a.tmx")),)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_entries == 2_001
    assert peak < 8e6


def test_documents_of_a_path_that_is_not_there():
    assert documents_in("nowhere.tmx") == []
    with pytest.raises(InputError, match="'nowhere.tmx' does not exist"):
        load_parallel_text("nowhere.tmx", "train")


MEASURE = """
import resource, sys
from training.data.formats.reading import entries_of, find_translations

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_entries = sum(1 for entry in entries_of(find_translations(sys.argv[1])) if not entry.skipped)
print(n_entries, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_texts_of_tatoeba_are_not_held_in_memory(tmp_path, run_python):
    n_sentences = 200_000
    text = 1500 * "a"
    with (tmp_path / "sentences.csv").open("w") as file:
        file.writelines(f"{n}\t{('eng', 'fra')[n % 2]}\t{n} {text}\n" for n in range(n_sentences))
    with (tmp_path / "links.csv").open("w") as file:
        file.writelines(f"{n}\t{n + 1}\n" for n in range(0, n_sentences, 1000))
    process = run_python("python", "-c", MEASURE, tmp_path)
    assert process.returncode == 0, process.stderr
    n_entries, megabytes = map(int, process.stdout.split())
    assert n_entries == n_sentences // 1000
    # Of 300 MB of texts. Few are linked: what is read of the files counts too, though it may be dropped.
    assert megabytes < 150
