# make · make test · make install PREFIX=/usr/local DESTDIR= · make uninstall
PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
TOOLS := checkpoint pack unpack restore verify
# .cargo/config.toml names the host as the target, so that the flags for static binaries keep off procedural macros.
BUILT := target/$(shell rustc -vV | sed -n 's/^host: //p')/release
BIN := $(DESTDIR)$(PREFIX)/bin
MAN := $(DESTDIR)$(PREFIX)/share/man/man1
BASH := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSH := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISH := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

.PHONY: all test demo bench install uninstall clean

all:
	$(CARGO) build --release --locked $(TOOLS:%=-p %)

test:
	scripts/test

demo:
	scripts/demo

bench:
	scripts/bench

install: all
	install -d $(BIN) $(MAN) $(BASH) $(ZSH) $(FISH)
	for tool in $(TOOLS); do \
		install -m 755 $(BUILT)/$$tool $(BIN)/$$tool && \
		$(BUILT)/$$tool --man > $(MAN)/$$tool.1 && \
		$(BUILT)/$$tool --completions bash > $(BASH)/$$tool && \
		$(BUILT)/$$tool --completions zsh > $(ZSH)/_$$tool && \
		$(BUILT)/$$tool --completions fish > $(FISH)/$$tool.fish || exit 1; \
	done
	install -m 755 scripts/migrate $(BIN)/migrate

uninstall:
	for tool in $(TOOLS); do \
		rm -f $(BIN)/$$tool $(MAN)/$$tool.1 $(BASH)/$$tool $(ZSH)/_$$tool $(FISH)/$$tool.fish; \
	done
	rm -f $(BIN)/migrate

clean:
	$(CARGO) clean
