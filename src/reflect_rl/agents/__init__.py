"""Any agent on the fixed panels: anybody's class, language models behind a server, a random and a scripted one."""
