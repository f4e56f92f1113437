"""MCP servers behind faults: `worldsim proxy`."""

from worldsim.sandbox.proxying import ProxyConfig, run_proxy

__all__ = ["ProxyConfig", "run_proxy"]
