"""Data sets for the scripts and tests of a checkout; deliberately not part of the wheel.

Installed, this folder would become a top-level module ``datasets`` and shadow Hugging Face's
package of that name wherever both are. So the packages never import it; scripts and tests, which
run from the root of a checkout, do.
"""
