"""Models behind a server that speaks the OpenAI protocol: the only room that calls one."""
