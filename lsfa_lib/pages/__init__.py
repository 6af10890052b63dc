"""HTML: an executed notebook as a page, the gallery of all pages, bundles to share."""
