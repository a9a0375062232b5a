"""The seeded world: the whole proxy in virtual time, over a network in memory, with dice that come from one seed.

`loop` is time, `sockets`, `transport` and `network` are the wire, `providers` and `callers` the two sides of it,
`scenario` what a seed means, `world` one run of it, `watch` what is noted meanwhile, `checks` what must hold, `shrink`
the way from a failing list of faults to a short one.
"""
