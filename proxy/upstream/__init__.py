"""Everything that talks to providers. One attempt is a `Call`; the seam to the network is `Connector`."""
