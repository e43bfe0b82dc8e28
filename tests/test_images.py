"""Check how every kind of image is read, pixel by pixel, and how what is no image is refused."""

import base64
import http.server
import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from modeling_altclip import images_altclip
from modeling_altclip.image_files_altclip import find_images
from modeling_altclip.images_altclip import read_background, read_image, read_images

RED = ImageColor.getrgb("red")  # (255, 0, 0)
WHITE = ImageColor.getrgb("white")
BLACK = ImageColor.getrgb("black")
BLUE = ImageColor.getrgb("blue")
GREYS = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def pixels_of(image, **options):
    """Return the pixels as they are read, of shape (height, width, 3)."""
    return np.asarray(read_image(image, **options))


def row(image, **options):
    """Return the pixels of an image's first row."""
    return [tuple(pixel) for pixel in pixels_of(image, **options)[0].tolist()]


def write_png(depth, color_type, pixels, transparency):
    """Write a PNG of one row of two pixels by its specification, with a transparent color."""

    def chunk(name, data):
        length = struct.pack(">I", len(data))
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return length + name + data + checksum

    header = struct.pack(">IIBBBBB", 2, 1, depth, color_type, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    file += chunk(b"IHDR", header)
    file += chunk(b"tRNS", transparency)
    file += chunk(b"IDAT", zlib.compress(b"\0" + pixels))  # a row begins with its filter, 0 for none
    file += chunk(b"IEND", b"")
    return Image.open(io.BytesIO(file))


def palette(transparency=None, mode="RGB"):
    """Return two pixels, red and blue, of a palette; in RGBA blue is transparent."""
    image = Image.new("P", (2, 1))
    colors = [*RED, 255, *BLUE, 0] if mode == "RGBA" else [*RED, *BLUE]
    image.putpalette(colors, mode)
    image.putdata([0, 1])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def with_key(mode, pixels, key):
    """Return two pixels, of which those of the color `key` are transparent."""
    image = Image.new(mode, (2, 1))
    image.putdata(pixels)
    image.info["transparency"] = key
    return image


def alpha(mode):
    """Return two pixels, the first half transparent and the second wholly."""
    image = Image.new("RGBA", (2, 1))
    image.putdata([(200, 100, 40, 128), (10, 20, 30, 0)])
    if mode == "PA":
        greys = Image.new("P", (2, 1))
        greys.putpalette([200, 100, 40, 10, 20, 30])
        greys.putdata([0, 1])
        greys.putalpha(image.getchannel("A"))
        return greys
    if mode in ("LA", "La"):
        greys = Image.new("LA", (2, 1))
        greys.putdata([(200, 128), (10, 0)])
        return greys.convert(mode)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
@pytest.mark.parametrize("background", [WHITE, BLACK, (10, 200, 30)])
def test_alpha_is_composited(mode, background):
    image = alpha(mode)
    assert image.mode == mode
    color = (200, 200, 200) if mode in ("LA", "La") else (200, 100, 40)
    # Alpha is 128 of 255.
    expected = [round((value * 128 + ground * 127) / 255) for value, ground in zip(color, background)]
    tolerance = 1 if mode in ("RGBa", "La") else 0  # premultiplied values are rounded
    pixels = row(image, background=background)
    assert np.abs(np.subtract(pixels[0], expected)).max() <= tolerance
    assert pixels[1] == background


def test_white_is_the_default_and_none_drops_alpha():
    image = alpha("RGBA")
    assert row(image)[1] == WHITE
    assert row(image, background="#ffffff")[1] == WHITE
    assert row(image, background=[255, 255, 255])[1] == WHITE
    for background in (None, "none"):
        assert row(image, background=background) == [(200, 100, 40), (10, 20, 30)]
        assert row(alpha("LA"), background=background) == [(200, 200, 200), (10, 10, 10)]
        assert row(palette(transparency=1), background=background) == [RED, BLUE]
        assert len(row(alpha("La"), background=background)) == 2
    for given in (with_key("RGB", [RED, BLUE], RED), palette(transparency=1)):
        read = read_image(given, background=None)
        assert "transparency" not in read.info  # transformers would composite it


@pytest.mark.parametrize(
    "image,expected",
    [
        (palette(), [RED, BLUE]),
        (palette(transparency=1), [RED, WHITE]),
        (palette(transparency=b"\x80\x00"), [(255, 127, 127), WHITE]),
        (palette(mode="RGBA"), [RED, WHITE]),
        (with_key("L", [5, 10], 5), [WHITE, (10, 10, 10)]),
        (with_key("L", [0, 10], 0), [WHITE, (10, 10, 10)]),
        (with_key("1", [0, 255], 0), [WHITE, WHITE]),
        (with_key("RGB", [RED, BLUE], RED), [WHITE, BLUE]),
        (with_key("RGB", [BLACK, BLUE], BLACK), [WHITE, BLUE]),
        # CMYK has no alpha, whatever it says.
        (with_key("CMYK", [(0, 255, 255, 0), (255, 255, 0, 0)], 0), [RED, BLUE]),
    ],
)
def test_a_transparent_palette_or_color_is_composited(image, expected):
    assert row(image) == expected


@pytest.mark.parametrize(
    "depth,color_type,pixels,transparency,expected",
    [
        (1, 0, b"\x40", struct.pack(">H", 0), [WHITE, WHITE]),
        (1, 0, b"\x40", struct.pack(">H", 1), [BLACK, WHITE]),
        (2, 0, b"\x90", struct.pack(">H", 1), [(170, 170, 170), WHITE]),
        (4, 0, b"\x5a", struct.pack(">H", 5), [WHITE, (170, 170, 170)]),
        (4, 0, b"\x2f", struct.pack(">H", 2), [WHITE, WHITE]),
        (8, 0, b"\x05\x0a", struct.pack(">H", 5), [WHITE, (10, 10, 10)]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3), [WHITE, (4, 5, 6)]),
        (16, 0, struct.pack(">2H", 1000, 40000), struct.pack(">H", 1000), [WHITE, (156, 156, 156)]),
        (
            16,
            2,
            struct.pack(">6H", 1000, 2000, 3000, 40000, 256, 0),
            struct.pack(">3H", 1000, 2000, 3000),
            [WHITE, (156, 1, 0)],
        ),
    ],
)
def test_a_transparent_color_is_composited_in_png_files_of_every_depth(
    depth, color_type, pixels, transparency, expected
):
    """Pillow leaves the color in the bits of the file, and finds no pixel like it."""
    image = write_png(depth, color_type, pixels, transparency)
    assert row(image, background="white") == expected
    if depth != 16:
        opaque = np.asarray(image.convert("RGB"))
        assert np.array_equal(pixels_of(image, background=None), opaque)


@pytest.mark.parametrize("depth,color_type,pixel", [(16, 4, (51400, 0)), (16, 6, (51400, 25700, 0, 0))])
def test_16_bits_with_alpha_are_composited(depth, color_type, pixel):
    opaque = (*pixel[:-1], 65535)
    pixels = struct.pack(f">{2 * len(pixel)}H", *opaque, *pixel)
    image = write_png(depth, color_type, pixels, b"")
    color = (200, 200, 200) if color_type == 4 else (200, 100, 0)
    assert row(image) == [color, WHITE]
    assert row(image, background=None) == [color, color]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_frames_of_an_animation_are_composited(tmp_path, format):
    frames = [Image.new("RGBA", (8, 8), (*color, 255)) for color in (RED, BLUE)]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (0, 0, 4, 4))
        # The encoder of WebP would crop what is wholly transparent.
        alpha = 1 if format == "WEBP" else 0
        frame.paste((0, 0, 0, alpha), (0, 4, 4, 8))
    path = tmp_path / f"animated.{format.lower()}"
    frames[0].save(path, format, save_all=True, append_images=frames[1:], disposal=2, lossless=True)
    assert row(path)[0] == WHITE
    assert row(path)[-1] == RED
    with Image.open(path) as animation:
        animation.seek(1)
        assert row(animation)[0] == WHITE
        assert row(animation)[-1] == BLUE
        assert row(animation, background="black")[0] == BLACK


def test_a_turned_image_is_composited_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation of a camera turned by a quarter
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "turned.png", exif=exif)
    assert pixels_of(tmp_path / "turned.png").tolist() == [[list(WHITE)], [list(RED)]]
    greys = Image.fromarray(np.array([[1000, 40000]], np.uint16))
    greys.save(tmp_path / "grey.png", exif=exif)
    assert pixels_of(tmp_path / "grey.png")[:, 0, 0].tolist() == [3, 156]  # 1000 / 257, 40000 / 257


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_colors_of_other_spaces_are_converted(mode):
    originals = [RED, BLUE, (90, 90, 90), WHITE]
    colors = Image.fromarray(np.array([originals], np.uint8)).convert(mode)
    assert np.array_equal(pixels_of(colors), np.asarray(colors.convert("RGB")))
    rounding = 25 if mode == "LAB" else 3  # LAB of 8 bits has no such blue
    assert np.abs(np.subtract(row(colors), originals)).max() <= rounding


WITHIN_1 = GREYS / 255
SIXTEEN_BITS = GREYS.astype(np.uint16) * 257
# Images of one channel in all types and ranges; each is read as GREYS.
SHADES = {
    "I": GREYS.astype(np.int32),
    "I of 16 bits": GREYS.astype(np.int32) * 257,
    "I;16": SIXTEEN_BITS,
    "I;16B": SIXTEEN_BITS.astype(">u2"),
    "F": GREYS.astype(np.float32),
    "F within [0, 1]": WITHIN_1.astype(np.float32),
    "F of 16 bits": GREYS.astype(np.float32) * 257,
    "L": GREYS,
    "float16": WITHIN_1.astype(np.float16),
    "float64": WITHIN_1,
    "int64": GREYS.astype(np.int64),
}


@pytest.mark.parametrize("name", SHADES)
def test_shades_of_every_range_are_read_alike(tmp_path, name):
    shades = SHADES[name]
    assert np.array_equal(pixels_of(shades)[..., 1], GREYS)
    assert np.array_equal(pixels_of(shades[..., None])[..., 1], GREYS)
    if shades.dtype.byteorder != ">":
        assert np.array_equal(pixels_of(torch.from_numpy(shades))[..., 2], GREYS)

    mode = name.split()[0]
    if mode in ("I", "I;16", "I;16B", "F", "L"):
        image = Image.fromarray(shades)
        assert image.mode == mode
        assert np.array_equal(pixels_of(image)[..., 0], GREYS)
        image.save(tmp_path / "shades.tiff")
        assert np.array_equal(pixels_of(tmp_path / "shades.tiff")[..., 0], GREYS)


@pytest.mark.parametrize("n_values", [1, 30, 47])
@pytest.mark.parametrize(
    "top,dtype,brightest",
    [(1, "float32", 255), (200, "float64", 200), (60_000, "float32", 234), (60_000, "uint16", 234)]
    + [(200, "int64", 200)],
)
def test_arrays_are_scaled_a_few_rows_at_a_time(monkeypatch, n_values, top, dtype, brightest):
    """Doubles of 100 megapixels at once would take 2.4 GB."""
    shades = (np.linspace(0, top, 7 * 5 * 3).reshape(7, 5, 3)).astype(dtype)
    at_once = np.asarray(read_image(shades))
    assert (at_once.min(), at_once.max()) == (0, brightest)
    monkeypatch.setattr(images_altclip, "_SCALED_VALUES", n_values)
    assert (np.asarray(read_image(shades)) == at_once).all()


def test_bool_is_black_and_white():
    drawn = GREYS > 127
    for image in (drawn, torch.from_numpy(drawn), Image.fromarray(drawn)):
        assert np.array_equal(pixels_of(image)[..., 0], drawn * 255)


# Images of three channels in all types and ranges; each is read as PIXELS.
FORMS = {
    "uint8": PIXELS,
    "int32": PIXELS.astype(np.int32),
    "uint16": PIXELS.astype(np.uint16) * 257,
    "int64 of 16 bits": PIXELS.astype(np.int64) * 257,
    "float32 within [0, 1]": (PIXELS / 255).astype(np.float32),
    "float64 within [0, 1]": PIXELS / 255,
    "float32": PIXELS.astype(np.float32),
}


@pytest.mark.parametrize("name", FORMS)
def test_colors_are_read_from_arrays_and_tensors_with_channels_at_either_end(name):
    last = FORMS[name]
    first = np.ascontiguousarray(last.transpose(2, 0, 1))
    for image in (last, first, torch.from_numpy(last), torch.from_numpy(first)):
        read = read_image(image)
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), PIXELS)

    # With alpha, of which the first row is transparent.
    opacity = np.full(GREYS.shape, last.max(), last.dtype)
    opacity[0] = 0
    transparent = np.dstack([last, opacity])
    first = np.ascontiguousarray(transparent.transpose(2, 0, 1))
    for image in (transparent, first, torch.from_numpy(transparent)):
        pixels = pixels_of(image)
        assert (pixels[0] == 255).all()
        assert np.array_equal(pixels[1:], PIXELS[1:])
        assert np.array_equal(pixels_of(image, background=None), PIXELS)


def test_tensors_of_bfloat16_and_with_gradients_are_read():
    tensor = (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).requires_grad_()
    assert np.array_equal(pixels_of(tensor), PIXELS)
    rounded = pixels_of(tensor.bfloat16()).astype(int)
    assert np.abs(rounded - PIXELS).max() <= 1


def test_grey_with_alpha_is_composited():
    opacity = np.where(GREYS > 99, 255, 0).astype(np.uint8)
    pixels = np.dstack([GREYS, opacity])
    expected = np.where(GREYS > 99, GREYS, 255)
    for image in (pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels)):
        assert np.array_equal(pixels_of(image)[..., 0], expected)


def test_where_both_axes_could_hold_the_channels_the_likelier_one_does():
    # In doubt arrays have channels last, tensors first.
    image = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    assert np.array_equal(pixels_of(image), image)
    assert np.array_equal(pixels_of(torch.from_numpy(image)), image.transpose(1, 2, 0))
    few_rows = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for given in (few_rows, torch.from_numpy(few_rows)):  # three channels are likelier than four
        assert np.array_equal(pixels_of(given), few_rows)


@pytest.mark.parametrize("shape", [(3, 5, 3), (1, 5, 3), (4, 3, 2), (3, 4, 1), (1, 1, 3), (2, 3, 4)])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_the_caller_may_say_which_axis_holds_the_channels(shape, make):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for stated, last in (("channels_first", image.transpose(1, 2, 0)), ("channels_last", image)):
        in_color = np.dstack([last] * 3) if last.shape[2] == 1 else last
        expected = pixels_of(in_color, input_data_format="channels_last")
        assert expected.shape[:2] == last.shape[:2]
        (read,) = read_images([make(image)], input_data_format=stated)
        assert np.array_equal(np.asarray(read), expected)


@pytest.mark.parametrize(
    "stated,message",
    [
        ("channels_first", r"its shape is \(8, 9, 3\): axis 0, where input_data_format says"),
        ("first", "input_data_format is 'first': choose"),
    ],
)
def test_an_axis_that_cannot_hold_the_channels_is_named(stated, message):
    with pytest.raises(ValueError, match=rf"images\[0\] cannot be read: {message}"):
        read_images([np.zeros((8, 9, 3), np.uint8)], input_data_format=stated)


def write_tiff(white, bits, kind, pixels):
    """Write a TIFF of greys by its specification, with 0 as black or as white."""
    height, width = pixels.shape
    n_tags = 10
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,  # no compression
        262: int(not white),
        273: 14 + 12 * n_tags,  # the pixels begin behind the header and the tags
        277: 1,  # sample a pixel
        278: height,
        279: pixels.nbytes,
        339: kind,  # 1 for integers, 3 for floats
    }
    assert len(tags) == n_tags
    file = b"II*\0" + struct.pack("<IH", 8, n_tags)
    for tag, value in tags.items():
        file += struct.pack("<HHII", tag, 4, 1, value)
    file += bytes(4)  # no further image
    return Image.open(io.BytesIO(file + pixels.tobytes()))


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize(
    "mode,bits,kind,scale,dtype",
    [("L", 8, 1, 1, "u1"), ("I;16", 16, 1, 257, "<u2"), ("F", 32, 3, 1 / 255, "f4"), ("F", 32, 3, 257, "f4")],
)
def test_greys_of_tiffs_where_0_is_white(white, mode, bits, kind, scale, dtype):
    shades = 255 - GREYS if white else GREYS
    pixels = (shades * np.float64(scale)).astype(dtype)
    image = write_tiff(white, bits, kind, pixels)
    assert image.mode == mode
    read = pixels_of(image)[..., 0].astype(int)
    assert np.abs(read - GREYS).max() <= 1


@pytest.mark.parametrize(
    "bad,message",
    [
        (np.zeros((8, 9, 5), np.uint8), r"its shape is \(8, 9, 5\): neither"),
        (torch.zeros(6, 8, 9), r"its shape is \(6, 8, 9\): neither"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"its shape is \(2, 8, 9, 3\): give one image"),
        (np.zeros(8), r"its shape is \(8,\): give one image"),
        (np.full((8, 9), np.nan), "infinite or no numbers"),
        (torch.full((3, 8, 9), torch.inf), "infinite or no numbers"),
        (np.full((8, 9), -0.1), r"its values lie within \[-0.1, -0.1\]: clip them to \[0, 1\]"),
        (torch.full((3, 8, 9), 1.02), "clip them to"),
        (np.full((8, 9, 3), 256.5), "clip them to"),
        (np.full((8, 9), 70000), r"within \[70000, 70000\]"),
        (np.full((8, 9), -1, np.int16), r"within \[-1, -1\]"),
        (np.zeros((8, 9), complex), "its values are of type complex128"),
        (np.array([["a"]]), "its values are of type <U1"),
        (Image.fromarray(np.full((8, 9), -1, np.int32)), r"within \[-1, -1\]"),
        (Image.fromarray(np.full((8, 9), np.nan, np.float32)), "infinite or no numbers"),
    ],
)
def test_an_array_that_is_no_image_is_named(bad, message):
    with pytest.raises(ValueError, match=rf"images\[1\] cannot be read: .*{message}"):
        read_images([PIXELS, bad])


def encoded(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def test_strings_may_be_paths_addresses_or_base64(tmp_path):
    png = encoded(alpha("RGBA"))
    path = tmp_path / "a b.png"
    path.write_bytes(png)
    text = base64.b64encode(png).decode()
    quoted = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    addresses = [
        path.as_uri(),
        f"FILE://{path.as_uri()[7:]}",
        f"data:image/png;base64,{text}",
        f"DATA:;base64,{text}",
        f"data:;base64,{quoted}",
    ]
    broken_into_lines = base64.encodebytes(png).decode()
    for given in (path, str(path), *addresses, text, broken_into_lines):
        assert row(given) == row(alpha("RGBA"))
        assert row(given, background="black")[1] == BLACK


@pytest.mark.parametrize(
    "missing",
    [
        "dog.png",
        "photos/dog",
        "dog",
        "C:/photos/dog.png",
        "dogs",
        "",
        "a" * 200,
        "photos/" + "x-" * 300 + ".jpg",
    ],
)
def test_a_string_that_is_no_file_is_named(missing):
    with pytest.raises(ValueError) as caught:
        read_images([missing])
    assert str(caught.value) == f"images[0] cannot be read: file does not exist: {missing}"


def test_paths_that_lead_to_no_image_are_named(tmp_path):
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    png = encoded(Image.fromarray(PIXELS))
    broken = base64.b64encode(png).decode()[:-403]
    for given, message in (
        (tmp_path, f"it is a folder, not a file: {tmp_path}"),
        (tmp_path / "gone.png", f"file does not exist: {tmp_path}/gone.png"),
        (f"file://{tmp_path}/gone.png", f"file does not exist: {tmp_path}/gone.png"),
        (tmp_path / "drawing.svg", "SVG is a drawing, without pixels: render it to a PNG first"),
        (broken, "it is neither a file nor an image in base64: iVBOR"),
    ):
        with pytest.raises(ValueError, match=rf"images\[0\] cannot be read: {message}"):
            read_images([given])


def test_addresses_are_fetched():
    png = encoded(alpha("RGBA"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(png)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        expected = row(alpha("RGBA"))
        assert row(f"{address}/a.png", timeout=60) == expected
        assert row(f"HTTP{address[4:]}/a.png", timeout=60) == expected
        with pytest.raises(ValueError, match=r"images\[0\] cannot be read: .*404"):
            read_images([f"{address}/gone.png"], timeout=60)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "bad", ["whit", "#12", "#ffffff80", (255, 255), (255, 255, 256), (0.5, 0.5, 0.5), 7, [255, 255, "255"]]
)
def test_a_bad_background_is_refused(bad):
    message = "background is .*: give a color that PIL.ImageColor knows, such as 'white'"
    with pytest.raises(ValueError, match=message):
        read_background(bad)
    with pytest.raises(ValueError, match="^background is"):
        read_images([PIXELS], background=bad)


def make_files(folder, *names):
    """Write empty files, which are enough to be found."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_pictures_are_found_in_a_folder_and_by_a_glob(tmp_path):
    names = ["b.PNG", "a-1.jpg", "a/b.webp", "a/c/d.tiff", "drawing.svg", "phone.heic"]
    others = [
        ".DS_Store",
        "notes.txt",
        "metadata.jsonl",
        ".hidden.png",
        ".thumbnails/a.png",
        "a/._b.webp",
        "png",
    ]
    make_files(tmp_path, *names, *others)
    (tmp_path / "folder.png").mkdir()
    for where in (tmp_path, str(tmp_path), f"{tmp_path}/", f"{tmp_path}/**"):
        found = find_images(where)
        assert found == {name: str(tmp_path / name) for name in names}
        assert list(found) == sorted(names)
    assert list(find_images(f"{tmp_path}/a/**/*.*")) == ["b.webp", "c/d.tiff"]
    assert list(find_images(tmp_path / "*.[jP]*")) == ["a-1.jpg", "b.PNG"]
    make_files(tmp_path, "1 [x]/e.gif")  # a folder whose name looks like a glob
    assert list(find_images(tmp_path / "1 [x]")) == ["e.gif"]


@pytest.mark.parametrize(
    "where,names",
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "photos/b.png"]),
        ("photos/*.png", ["b.png"]),
        ("photos", ["b.png"]),
        (".", ["a.png", "photos/b.png"]),
        ("./*.png", ["a.png"]),
        ("../here/**", ["a.png", "photos/b.png"]),
        ("[p]hotos/*", ["photos/b.png"]),
    ],
)
def test_a_folder_and_a_glob_may_be_relative(tmp_path, monkeypatch, where, names):
    make_files(tmp_path / "here", "a.png", "photos/b.png")
    monkeypatch.chdir(tmp_path / "here")
    found = find_images(where)
    assert list(found) == names
    for path in found.values():
        assert os.path.isfile(path)


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    make_files(tmp_path, "photos/a.png", "photos/sub/b.png", "elsewhere/c.png")
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos/sub/up").symlink_to("..", target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos/gone.png").symlink_to("nowhere.png")
    assert list(find_images(tmp_path / "photos")) == ["a.png", "linked/c.png", "sub/b.png"]

    # Python's glob goes round each of several loops in all of the others: one is left.
    (tmp_path / "photos/sub/up").unlink()
    (tmp_path / "elsewhere/back").unlink()
    assert list(find_images(f"{tmp_path}/photos/**")) == ["a.png", "linked/c.png", "sub/b.png"]


@pytest.mark.parametrize(
    "where,message",
    [
        ("{}/gone", "images is '.*/gone', and the file does not exist: give a folder, a glob or a list"),
        ("{}/*.png", r"images is '.*\*.png', and none of its 0 files is a picture"),
        ("{}/empty", "images is '.*/empty', and none of its 1 files is a picture"),
        ("{}/a.jpg", "images is a single file or address: put it into a list"),
        ("https://localhost/a.png?b", "images is a single file or address: put it into a list"),
        ("data:image/png;base64,AAAA", "images is a single file or address: put it into a list"),
        ("AAAA" * 100, "images is a single file or address: put it into a list"),
    ],
)
def test_what_is_no_folder_of_images_is_refused(tmp_path, where, message):
    make_files(tmp_path, "empty/notes.txt", "a.jpg")
    with pytest.raises(ValueError, match=message):
        find_images(where.format(tmp_path))
