"""Types and shapes of every annotated function are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook("lsfa_lib", "beartype.beartype")
