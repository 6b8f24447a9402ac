#!/usr/bin/env bash
# Install the few system libraries that open3d and EGL need, where that is allowed; else print the exact line.
# With "browser": Chromium, which the tests of the report open it in.
set -euo pipefail
packages=(libegl1 libgl1 libgles2 libgl1-mesa-dri libgomp1 libx11-6 libusb-1.0-0)
[ "${1:-}" = browser ] && packages=(chromium)

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "mvad: not a Debian system; install the equivalents of: ${packages[*]}"
    exit 0
fi
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ]; then
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
        echo "mvad: could not be installed: ${missing[*]}"
        [ "${1:-}" = browser ] || exit 1 # without a browser its tests are skipped, and say so
    fi
else
    echo "mvad: system libraries are missing. Run: sudo sh -c '$line'"
fi
