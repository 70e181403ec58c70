# Shared by tools/quickstart and tools/test: what forge needs on Debian 12, and progress lines.
# Sourced, not run. The caller has set -euo pipefail.

forge_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)
umask 022  # plugins that others may write are not loaded

# To build and run forge.
build_packages=(
  g++ cmake ninja-build git
  libboost-dev libmsgpack-cxx-dev libconcurrentqueue-dev libeigen3-dev
  libcli11-dev nlohmann-json3-dev libspdlog-dev libbenchmark-dev prometheus-cpp-dev
)
# To test it too.
test_packages=(
  libgtest-dev libgmock-dev relacy-dev python3 python3-prometheus-client
  clang libclang-rt-14-dev clang-format clang-tidy
)

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# step <words...>: says what starts now and when, in seconds since the script began.
step() {
  printf '\n== [%4d s] %s\n' "$SECONDS" "$*"
}

installed() {
  dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'
}

# install_missing <package...>: calls apt-get only when dpkg says that something is missing.
install_missing() {
  local package missing=() as_root=()
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "this script installs packages on Debian 12; elsewhere install the equivalents of: $*"
  for package in "$@"; do
    installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    echo "all ${#} packages are installed"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "missing packages: ${missing[*]}. Run as root or install sudo, or ask for: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update || die "apt-get update failed; is there a network?"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install: ${missing[*]} (forge is built on Debian 12)"
}

# build <preset> [target...]: configures and builds; all targets if none is named.
build() {
  local preset=$1 log=$forge_root/build/configure-$1.log targets=()
  shift
  (($# == 0)) || targets=(--target "$@")
  cd "$forge_root"
  mkdir -p build

  step "configure $preset"
  cmake --preset "$preset" >"$log" 2>&1 || {
    cat "$log" >&2
    die "cmake --preset $preset failed"
  }
  step "build $preset"
  cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}" ||
    die "the build of preset $preset failed"
}
