"""The marker of what needs the peers' own environment."""


def pytest_configure(config):
    config.addinivalue_line("markers", "peers: needs the environment of other frameworks; skipped where it is absent")
