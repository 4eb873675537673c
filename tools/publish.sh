#!/bin/sh
# Put a folder on a branch of a repository, as one commit: tools/publish.sh FOLDER REMOTE BRANCH [SUBFOLDER]
#
# Without SUBFOLDER the branch's files are replaced by the folder's, previews (preview/) kept; with one, that
# subfolder alone. An empty FOLDER removes it. Nothing is forced: if somebody else pushed, it starts over.
set -eu
[ $# -ge 3 ] || { echo "usage: tools/publish.sh FOLDER REMOTE BRANCH [SUBFOLDER]" >&2; exit 2; }
folder=$(cd "$1" && pwd) remote=$2 branch=$3 part=${4:-}
case $part in /*|*..*) echo "SUBFOLDER is $part; it must lie within the branch" >&2; exit 2;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for attempt in 1 2 3; do
  rm -rf "$work/tree"
  git clone --quiet --depth 1 --branch "$branch" "$remote" "$work/tree" 2>/dev/null ||
    { git init --quiet "$work/tree"; git -C "$work/tree" checkout --quiet --orphan "$branch"; git -C "$work/tree" remote add origin "$remote"; }
  if [ -n "$part" ]; then
    rm -rf "${work:?}/tree/$part"
    [ -z "$(ls -A "$folder")" ] || { mkdir -p "$work/tree/$part"; cp -R "$folder/." "$work/tree/$part/"; }
  else
    find "$work/tree" -mindepth 1 -maxdepth 1 ! -name .git ! -name preview -exec rm -rf {} +
    cp -R "$folder/." "$work/tree/"
  fi
  touch "$work/tree/.nojekyll"
  git -C "$work/tree" add --all --force
  git -C "$work/tree" diff --cached --quiet && { echo "nothing has changed"; exit 0; }
  git -C "$work/tree" -c user.name="${GIT_AUTHOR_NAME:-book}" -c user.email="${GIT_AUTHOR_EMAIL:-book@localhost}" \
    commit --quiet -m "${MESSAGE:-Publish}"
  git -C "$work/tree" push --quiet origin "HEAD:$branch" && exit 0
  echo "the branch has moved; attempt $attempt" >&2
done
exit 1
