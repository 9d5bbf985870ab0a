"""A file system that forgets like a disk whose power fails: what was written and not synced is gone.

usage: volatile_fs.py BACKING MOUNTPOINT     (Debian packages: fuse, python3-fusepy)

Everything is in the directory BACKING at once; what a page and a file's length were when they were last synced is kept in memory
until they are synced again. Commands come on standard input, each is answered by one line:

  sync    all there is counts as synced
  drop    every page and every length goes back to what was synced last

Names (create, rename, remove) last at once. Real disks may lose those too; PostgreSQL syncs directories for that.
"""
import errno
import os
import sys
import threading

from fusepy import FUSE, FuseOSError, Operations

PAGE = 4096


class Unsynced:
    """What a file was when it was last synced."""

    def __init__(self, path, size):
        self.path = path
        self.size = size
        self.pages = {}


class VolatileFs(Operations):
    def __init__(self, backing):
        self.backing = backing
        self.mutex = threading.RLock()
        self.unsynced = {}

    def __call__(self, op, *args):
        with self.mutex:
            if not hasattr(self, op):
                raise FuseOSError(errno.ENOSYS)
            return getattr(self, op)(*args)

    def at(self, path):
        return self.backing + path

    # Contents

    def before_change(self, fd, first, last):
        """Keeps the pages from `first` to `last` as they were when they were last synced."""
        status = os.fstat(fd)
        kept = self.unsynced.get(status.st_ino)
        if kept is None:
            path = os.readlink("/proc/self/fd/%d" % fd)
            kept = self.unsynced[status.st_ino] = Unsynced(path, status.st_size)
        for page in range(first // PAGE, last // PAGE + 1):
            if page * PAGE < kept.size and page not in kept.pages:
                kept.pages[page] = os.pread(fd, min(PAGE, kept.size - page * PAGE), page * PAGE)

    def write(self, path, data, offset, fh):
        self.before_change(fh, offset, offset + len(data) - 1)
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        fd = os.open(self.at(path), os.O_RDWR) if fh is None else fh
        try:
            size = os.fstat(fd).st_size
            self.before_change(fd, min(length, size), max(size - 1, min(length, size)))
            os.ftruncate(fd, length)
        finally:
            if fh is None:
                os.close(fd)

    def fsync(self, path, datasync, fh):
        self.unsynced.pop(os.fstat(fh).st_ino, None)

    def fsyncdir(self, path, datasync, fh):
        return 0

    def sync(self):
        with self.mutex:
            self.unsynced.clear()

    def drop(self):
        """@returns how many bytes and files were not synced."""
        with self.mutex:
            dropped = sum(len(kept.pages) for kept in self.unsynced.values()) * PAGE
            files = len(self.unsynced)
            for kept in self.unsynced.values():
                if kept.path.endswith(" (deleted)"):
                    continue
                fd = os.open(kept.path, os.O_RDWR)
                os.ftruncate(fd, kept.size)
                for page, old in kept.pages.items():
                    os.pwrite(fd, old, page * PAGE)
                os.close(fd)
            self.unsynced.clear()
            return dropped, files

    # Names: a file that is renamed or removed takes what is unsynced of it along.

    def follow(self, path, to):
        try:
            kept = self.unsynced.get(os.lstat(self.at(path)).st_ino)
        except FileNotFoundError:
            return
        if kept is not None:
            kept.path = " (deleted)" if to is None else self.at(to)

    def forget(self, path):
        status = os.lstat(self.at(path))
        if status.st_nlink == 1:
            self.unsynced.pop(status.st_ino, None)

    def rename(self, old, new):
        if os.path.isfile(self.at(new)):
            self.forget(new)
        self.follow(old, new)
        os.rename(self.at(old), self.at(new))

    def unlink(self, path):
        self.forget(path)
        os.unlink(self.at(path))

    def create(self, path, mode, fi=None):
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT, mode)

    def open(self, path, flags):
        # Always for reading as well: pages are read before they change.
        fd = os.open(self.at(path), os.O_RDWR)
        if flags & os.O_TRUNC:
            self.truncate(path, 0, fd)
        return fd

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)

    def flush(self, path, fh):
        return 0

    def getattr(self, path, fh=None):
        status = os.lstat(self.at(path))
        names = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid", "st_blocks")
        return {name: getattr(status, name) for name in names}

    def readdir(self, path, fh):
        return [".", ".."] + os.listdir(self.at(path))

    def statfs(self, path):
        found = os.statvfs(self.at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in names}

    def mkdir(self, path, mode):
        os.mkdir(self.at(path), mode)

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    def chown(self, path, uid, gid):
        os.lchown(self.at(path), uid, gid)

    def readlink(self, path):
        return os.readlink(self.at(path))

    def symlink(self, target, source):
        os.symlink(source, self.at(target))

    def link(self, target, source):
        os.link(self.at(source), self.at(target))

    def utimens(self, path, times=None):
        os.utime(self.at(path), times)

    def access(self, path, amode):
        return 0


def obey(volume):
    for line in sys.stdin:
        if line.strip() == "sync":
            volume.sync()
            print("synced", flush=True)
        elif line.strip() == "drop":
            print("dropped %d bytes of %d files" % volume.drop(), flush=True)


def main():
    backing, mountpoint = (os.path.realpath(path) for path in sys.argv[1:])
    volume = VolatileFs(backing)
    threading.Thread(target=obey, args=(volume,), daemon=True).start()
    FUSE(volume, mountpoint, foreground=True, nothreads=True, big_writes=True, nonempty=True)


main()
