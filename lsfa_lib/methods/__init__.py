"""Methods behind one `fit`: LSFA, and others to compare it with. `table` lists them."""

from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.methods.table import METHODS, find_method
