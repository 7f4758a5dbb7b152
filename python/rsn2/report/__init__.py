"""Tables and pictures: Markdown, and HTML pages that need nothing but themselves."""
