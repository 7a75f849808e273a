"""Random accidents to every route, judged by what the peers saw; see ``__main__.py``."""
