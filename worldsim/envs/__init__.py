"""Environments: the embedded refund desk, and making any Gymnasium environment from a configuration."""

if __name__ != "worldsim.envs":
    raise ImportError("import worldsim.envs, not envs: the top-level folder is a link to the package's own")
