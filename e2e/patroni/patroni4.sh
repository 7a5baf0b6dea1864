#!/bin/sh
# Fetches Patroni 4 from the next release of Debian into a directory, without installing anything or changing apt's own state, and
# prints the program's path: patroni4.sh DIR. It runs with this machine's Python and libraries.
set -eu
release=trixie
dir=$1
if [ ! -x "$dir/patroni" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/root" "$dir"
	# The first source of this machine's own Debian, with another release.
	awk 'BEGIN { RS = "" } /^Types: deb/ || /\nTypes: deb/ { print; exit }' /etc/apt/sources.list.d/debian.sources |
		grep -v '^#' | sed "s/^Suites:.*/Suites: $release/" >"$work/sources/next.sources"
	set -- -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root
	apt-get "$@" update -qq >&2
	(cd "$work" && apt-get "$@" -qq download patroni python3-ydiff >&2)
	for deb in "$work"/*.deb; do
		dpkg-deb -x "$deb" "$work/root"
	done
	rm -rf "$dir/packages"
	mv "$work/root/usr/lib/python3/dist-packages" "$dir/packages"
	cat >"$dir/patroni" <<-END
		#!/bin/sh
		PYTHONPATH=$dir/packages exec /usr/bin/python3 -m patroni "\$@"
	END
	chmod -R a+rX "$dir"
	chmod 755 "$dir/patroni"
fi
echo "$dir/patroni"
