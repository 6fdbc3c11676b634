"""Layouts: how people and their tools lay out images and masks, recognised and read as they are.

One module per tool (or family of tools), one record each in :mod:`segproto.data.layouts.table`. A layout looks at the
names of files in a folder or a zip archive, and answers with a :class:`~segproto.data.layouts.finding.Finding`: which
file is an image, which is its mask (or from which shapes it is drawn), which split it belongs to, and what is known of
the classes. Nothing is converted and nothing is written.
"""
