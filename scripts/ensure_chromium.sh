#!/bin/sh
# Makes sure that the browser tests have a Chromium. Usage: ensure_chromium.sh PYTHON
# In this order: one that is there already, the package manager where we may use it, Playwright's own download.
set -eu
python=$1

# Asked to show its version, since Ubuntu's package of that name is only a pointer to a snap.
have_chromium() {
    [ -n "${CHROMIUM:-}" ] && return 0
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        "$name" --version >/dev/null 2>&1 && return 0
    done
    return 1
}

if have_chromium; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && grep -qiE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release; then
    echo "Installing Chromium for the browser tests" >&2
    apt-get update -qq
    for package in chromium-headless-shell chromium; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null 2>&1 && break
    done
fi
have_chromium || "$python" -m playwright install chromium
