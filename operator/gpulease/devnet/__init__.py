"""The embedded chain: a deterministic re-implementation of the market's protocol (akash v2.1.0).

It answers as the real chain does, bugs included, so that everything above it can be tested without a network. The
rules follow the chain's recorded behaviour (``tests/data/chain/recordings``), which ``devnet replay`` holds it to.
"""
