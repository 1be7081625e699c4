"""One hash of `train.arithmetic=portable` over kernels, threads, cuts, links, deaths and resumes."""
