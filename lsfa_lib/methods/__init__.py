"""LSFA and the methods it is compared with, all with the same `fit`. `table` lists them."""

from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.methods.table import METHODS, find_method
