"""HTML: an executed notebook as a page, the gallery of all of them, bundles to share."""
