"""Arithmetic whose results have the same bits on every machine: exact products and sums, elementary functions, bounds.

Sums of multiples of 2^q that stay within 2^53·2^q are exact in float64, whatever their order; everything else is
elementwise and made of + − × ÷ √ and comparison, one operation at a time, which IEEE 754 fixes. docs/exactness.md
explains it. Array functions take NumPy's module or CuPy's.
"""
