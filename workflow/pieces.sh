#!/usr/bin/env bash
# Carry a folder to a machine without a network, in pieces that fit whatever carries them.
#   workflow/pieces.sh split FOLDER PIECES MIB    FOLDER as pieces of MIB mebibytes in PIECES, with their checksums
#   workflow/pieces.sh join PIECES FOLDER         check the pieces, name those that are absent or torn, put FOLDER together
# Pieces can arrive in any order and a few at a time: join again when the missing ones are there.
set -euo pipefail

fail() {
    echo "pieces: $*" >&2
    exit 2
}

split_folder() {
    local folder=$1 pieces=${2%/} mebibytes=$3
    [ -d "$folder" ] || fail "FOLDER is '$folder'; it must be a folder that exists"
    [[ $mebibytes =~ ^[1-9][0-9]{0,5}$ ]] || fail "MIB is '$mebibytes'; it must be a whole number from 1"
    [ -z "$(ls -A "$pieces" 2>/dev/null)" ] || fail "PIECES is '$pieces'; it must be a new or empty folder"
    # Of a splitting that was killed nothing is taken for whole.
    rm -rf "$pieces.part" && mkdir -p "$pieces.part"
    tar --sort=name -C "$folder" -cf - . | split -b "${mebibytes}M" -d -a 4 - "$pieces.part/piece-"
    (cd "$pieces.part" && sha256sum piece-* >SHA256SUMS)
    rmdir "$pieces" 2>/dev/null || true
    mv "$pieces.part" "$pieces"
    echo "$(wc -l <"$pieces/SHA256SUMS") pieces of at most $mebibytes MiB, and SHA256SUMS, are in $pieces"
}

join_pieces() {
    local pieces=$1 folder=${2%/} bad
    [ -f "$pieces/SHA256SUMS" ] || fail "PIECES is '$pieces'; it must hold SHA256SUMS, which travels with the pieces"
    [ -z "$(ls -A "$folder" 2>/dev/null)" ] || fail "FOLDER is '$folder'; it must be a new or empty folder"
    bad=$(cd "$pieces" && sha256sum -c SHA256SUMS 2>/dev/null | sed -n 's/: FAILED.*//p') || true
    [ -z "$bad" ] || fail "absent or torn, bring again:" $bad
    rm -rf "$folder.part" && mkdir -p "$folder.part"
    (cd "$pieces" && awk '{print $2}' SHA256SUMS | xargs cat) | tar -C "$folder.part" --no-same-owner -xf -
    rmdir "$folder" 2>/dev/null || true
    mv "$folder.part" "$folder"
    echo "$folder is whole"
}

case "${1-}:$#" in
split:4) split_folder "$2" "$3" "$4" ;;
join:3) join_pieces "$2" "$3" ;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
