"""The parsers of formats that can hurt: they run only in the child program ``python -m retrieval.parsers``.

One module per family of formats, each the only importer of its libraries. A parser takes bytes and
returns a ``Parsed``; what is wrong with a file it raises as an ``UnreadableDocument``. Nothing here knows
chunks, indexes or the store.
"""
