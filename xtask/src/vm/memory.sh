# Puts what the programs of a test need into memory: the files of the machine outside are out of reach once this one has slept (the driver
# has nothing for that).
memory=/memory
mkdir $memory
mount -t tmpfs memory $memory
mkdir -p $memory/{proc,sys,dev,run,tmp,root,usr/bin,usr/sbin,usr/lib,usr/lib64}
for directory in bin sbin lib lib64; do ln -s usr/$directory $memory/$directory; done
cp -r /etc $memory
needed=("$@")
for program in bash sh timeout ip tc bpftool nft stty dd; do needed+=("$(command -v $program)"); done
for file in "${needed[@]}" $(ldd "${needed[@]}" | grep -o '/[^ :)]*' | sort -u); do cp --parents --dereference "$(realpath --no-symlinks "$file")" $memory; done
for directory in proc sys dev; do mount --rbind /$directory $memory/$directory; done
# It ends from there as well.
export -f end
export exit_port
