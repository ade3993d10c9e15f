"""The report as one self-contained page, for people who would rather look than read.

It loads nothing from elsewhere, and every text from a file is escaped. Jinja2 is imported when a page is written.
"""
