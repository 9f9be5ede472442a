#!/bin/sh
# Installs the package that this script came in, or removes it; --help tells how.
set -eu

usage='usage: ./install.sh [--prefix FOLDER] [--uninstall]

Checks every file of this package against SHA256SUMS, tries its command on this machine, and copies it into FOLDER
[default: /usr/local]. Either all files are installed, or none. Files of others are never overwritten.

  --uninstall   remove what an installation of this package put into FOLDER, and nothing else

Exit codes: 0 done, 2 usage, 4 not for this machine, 7 damaged, in the way, or not writable'

# The codes are those of safelight itself.
fail() {
  code=$1
  shift
  printf 'error: %s\n' "$*" >&2
  exit "$code"
}

prefix=/usr/local action=install
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix)
      [ -n "${2-}" ] || fail 2 "--prefix needs a folder
$usage"
      prefix=$2
      shift 2 ;;
    --uninstall) action=uninstall; shift ;;
    -h | --help) echo "$usage"; exit 0 ;;
    *) fail 2 "unknown argument $1
$usage" ;;
  esac
done
case "$prefix" in /*) ;; *) prefix=$PWD/$prefix ;; esac

cd "$(dirname "$0")"
[ -e PACKAGE ] && [ -e SHA256SUMS ] || fail 7 "PACKAGE or SHA256SUMS is missing in $PWD: unpack the archive again"
read -r name version architecture <PACKAGE
# What is installed here, a path a line, folders that we made with a slash at their end.
list=$prefix/share/safelight/installed/$name

# --- before anything is written

check_sums() {
  sha256sum --check --quiet --strict SHA256SUMS >&2 || fail 7 "$name is damaged: unpack or download the archive again"
}

check_machine() {
  [ "$architecture" != all ] || return 0
  # A kernel of 64 bits may carry a system of 32, as on some Raspberry Pis.
  here="$(uname -s) $(uname -m) of $(getconf LONG_BIT) bits"
  [ "$here" = "Linux $architecture of 64 bits" ] ||
    fail 4 "this package is for Linux $architecture of 64 bits, and this machine is $here"
  told=$(bin/safelight --version 2>&1) || fail 4 "bin/safelight does not run on this machine: $told"
}

# Every file of the package, as SHA256SUMS lists them, but for those that only the archive needs.
files() {
  sed -n 's/^[0-9a-f]\{64\}  \.\///p' SHA256SUMS | grep -E '^(bin|include|lib|share)/'
}

check_free() {
  files | while IFS= read -r file; do
    if { [ -e "$prefix/$file" ] || [ -L "$prefix/$file" ]; } && ! grep -qxF "$file" "$list" 2>/dev/null; then
      fail 7 "$prefix/$file is there already, and no installation of $name put it there: remove it, or choose another --prefix"
    fi
  done
}

# --- writing: copies under other names first, which leave no trace where one fails

new=.safelight-new

roll_back() {
  files | while IFS= read -r file; do rm -f "$prefix/$file$new"; done
  rm -f "$list$new"
  [ ! -e "$made" ] || sort -r "$made" | while IFS= read -r folder; do rmdir "$folder" 2>/dev/null || true; done
  rm -f "$made"
}

# Makes a folder and those above it, and notes which were not there.
make_folder() {
  [ ! -d "$1" ] || return 0
  make_folder "$(dirname "$1")" && mkdir "$1" && echo "$1/" >>"$made"
}

copy_all() {
  make_folder "$(dirname "$list")" || return 1
  files | while IFS= read -r file; do
    make_folder "$(dirname "$prefix/$file")" || exit 1
    cp -Pf "$file" "$prefix/$file$new" || exit 1
    [ -L "$file" ] || chmod "$(mode "$file")" "$prefix/$file$new" || exit 1
  done
}

mode() {
  if [ -x "$1" ]; then echo 755; else echo 644; fi
}

# Files, and folders that this installation or an earlier one made.
write_list() {
  {
    files
    while IFS= read -r folder; do
      case "$folder" in "$prefix"/?*) printf '%s\n' "${folder#"$prefix"/}" ;; esac
    done <"$made"
    grep '/$' "$list" 2>/dev/null || true
  } | sort -u >"$list$new"
}

install_all() {
  made=$(mktemp)
  trap roll_back EXIT
  trap 'exit 130' HUP INT TERM
  copy_all || fail 7 "$prefix cannot be written: run it as root (sudo), or choose another --prefix; nothing was installed"
  write_list || fail 7 "$list cannot be written; nothing was installed"
  # From here it is renames alone. The list of both versions comes first, so that a cut there is one that --uninstall knows.
  trap '' HUP INT TERM
  [ ! -e "$list" ] || sort -u "$list" "$list$new" >"$list$new.both"
  [ ! -e "$list$new.both" ] || mv -f "$list$new.both" "$list"
  files | while IFS= read -r file; do mv -f "$prefix/$file$new" "$prefix/$file"; done
  remove_old
  mv -f "$list$new" "$list"
  trap - EXIT
  rm -f "$made"
}

# What an earlier version had and this one has not.
remove_old() {
  [ -e "$list" ] || return 0
  grep -v '/$' "$list" | grep -vxFf "$list$new" | while IFS= read -r file; do rm -f "$prefix/$file"; done
}

tell_what_next() {
  echo "$name $version is installed in $prefix; next:"
  [ -e bin/safelight ] || { echo "  safelight models --verify"; return; }
  case ":$PATH:" in *":$prefix/bin:"*) ;; *) echo "  export PATH=\"$prefix/bin:\$PATH\"" ;; esac
  [ -e "$prefix/lib/safelight/libonnxruntime.so" ] ||
    echo "  export ORT_DYLIB_PATH=FOLDER   # an ONNX Runtime: this package was made without (docs: packages.md)"
  [ -d "$prefix/share/safelight/models" ] || echo "  install a model: safelight-model-emoji-$version.tar.gz in the same way"
  [ "$prefix" != /usr/local ] || echo "  ldconfig   # as root, where programs link the C library"
  echo "  safelight doctor"
}

uninstall() {
  [ -e "$list" ] || fail 7 "$name is not installed in $prefix: there is no $list"
  [ -w "$(dirname "$list")" ] || fail 7 "$prefix cannot be written: run it as root (sudo)"
  grep -v '/$' "$list" | while IFS= read -r file; do rm -f "$prefix/$file"; done
  folders=$(grep '/$' "$list" | sort -r || true)
  rm -f "$list"
  # Folders that hold files of others by now stay.
  printf '%s\n' "$folders" | while IFS= read -r folder; do rmdir "$prefix/$folder" 2>/dev/null || true; done
  echo "$name is removed from $prefix"
}

if [ "$action" = uninstall ]; then
  uninstall
else
  check_sums
  check_machine
  check_free
  install_all
  tell_what_next
fi
