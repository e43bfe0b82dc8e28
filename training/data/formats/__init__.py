"""Files of translations: a module for each format, which yields a file's entries.

`documents` finds and opens the files, `entries` says what an entry is, `xml_elements` streams XML, and
`reading` maps the endings of names to formats.
"""
