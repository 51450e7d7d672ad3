"""WMTS 1.0.0 (OGC 07-057r7): capabilities, and GetTile by key and value. RESTful tiles are those of `/tiles`."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from fastapi import APIRouter, Request, Response

from app.errors import BadRequestError
from app.hits import MEDIA_TYPES, NOTICE
from app.layer import Layer
from app.routes.about import base_url
from app.routes.tiles import Wishes, answer, parse_tile
from app.service import Service

router = APIRouter(tags=["wmts"])

MATRIX_SET = "GoogleMapsCompatible"
SCALE_OF_ZOOM_0 = 559082264.0287178
"""Scale denominator of zoom 0: pixels of 0.28 mm, as OGC has them, on the equator."""
ORIGIN = 20037508.342789244

WMTS, OWS, XLINK = "http://www.opengis.net/wmts/1.0", "http://www.opengis.net/ows/1.1", "http://www.w3.org/1999/xlink"


SPACES = {"": WMTS, "ows": OWS, "xlink": XLINK}


def full(name: str) -> str:
    """`ows:Title` as ElementTree writes names with namespaces; without a prefix it is WMTS's."""
    prefix, _, local = name.rpartition(":")
    return f"{{{SPACES[prefix]}}}{local}"


def add(parent: xml.Element, name: str, text: str | None = None, **attributes: str) -> xml.Element:
    """A child element; `href` is XLink's."""
    named = {full("xlink:href") if key == "href" else key: value for key, value in attributes.items()}
    child = xml.SubElement(parent, full(name), named)
    child.text = text
    return child


def capabilities(layers: list[Layer], base: str) -> bytes:
    """The capabilities document of some layers; base: this server's address."""
    for prefix, space in SPACES.items():
        xml.register_namespace(prefix, space)
    root = xml.Element(f"{{{WMTS}}}Capabilities", {"version": "1.0.0"})
    about = add(root, "ows:ServiceIdentification")
    add(about, "ows:Title", "tilecascade")
    add(about, "ows:Abstract", f"Maps drawn by a diffusion cascade from imagery; {NOTICE}.")
    add(about, "ows:ServiceType", "OGC WMTS")
    add(about, "ows:ServiceTypeVersion", "1.0.0")
    operations = add(root, "ows:OperationsMetadata")
    for name in ("GetCapabilities", "GetTile"):
        operation = add(operations, "ows:Operation")
        operation.set("name", name)
        get = add(add(add(operation, "ows:DCP"), "ows:HTTP"), "ows:Get", href=f"{base}/wmts?")
        constraint = add(get, "ows:Constraint")
        constraint.set("name", "GetEncoding")
        add(add(constraint, "ows:AllowedValues"), "ows:Value", "KVP")
    contents = add(root, "Contents")
    for layer in layers:
        _layer(contents, layer, base)
    _matrix_set(contents, max(layer.max_zoom for layer in layers))
    add(root, "ServiceMetadataURL", href=f"{base}/wmts/1.0.0/WMTSCapabilities.xml")
    return xml.tostring(root, encoding="utf-8", xml_declaration=True)


def _layer(contents: xml.Element, layer: Layer, base: str) -> None:
    west, south, east, north = layer.imagery.bounds
    element = add(contents, "Layer")
    add(element, "ows:Title", layer.name)
    add(element, "ows:Abstract", "; ".join(note for note in (layer.attribution, NOTICE) if note))
    box = add(element, "ows:WGS84BoundingBox")
    add(box, "ows:LowerCorner", f"{west} {south}")
    add(box, "ows:UpperCorner", f"{east} {north}")
    add(element, "ows:Identifier", layer.name)
    add(add(element, "Style", isDefault="true"), "ows:Identifier", "default")
    for form in MEDIA_TYPES.values():
        add(element, "Format", form)
    link = add(element, "TileMatrixSetLink")
    add(link, "TileMatrixSet", MATRIX_SET)
    limits = add(link, "TileMatrixSetLimits")
    for zoom in range(layer.ladder.root, layer.max_zoom + 1):
        low, high = layer.corners(zoom)
        limit = add(limits, "TileMatrixLimits")
        add(limit, "TileMatrix", str(zoom))
        for name, value in (
            ("MinTileRow", low.y),
            ("MaxTileRow", high.y),
            ("MinTileCol", low.x),
            ("MaxTileCol", high.x),
        ):
            add(limit, name, str(value))
    for suffix, form in MEDIA_TYPES.items():
        template = f"{base}/tiles/{layer.name}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.{suffix}"
        add(element, "ResourceURL", format=form, resourceType="tile", template=template)


def _matrix_set(contents: xml.Element, max_zoom: int) -> None:
    element = add(contents, "TileMatrixSet")
    add(element, "ows:Identifier", MATRIX_SET)
    add(element, "ows:SupportedCRS", "urn:ogc:def:crs:EPSG::3857")
    add(element, "WellKnownScaleSet", f"urn:ogc:def:wkss:OGC:1.0:{MATRIX_SET}")
    for zoom in range(max_zoom + 1):
        matrix = add(element, "TileMatrix")
        add(matrix, "ows:Identifier", str(zoom))
        add(matrix, "ScaleDenominator", repr(SCALE_OF_ZOOM_0 / (1 << zoom)))
        add(matrix, "TopLeftCorner", f"-{ORIGIN} {ORIGIN}")
        edge = 1 << zoom
        for name, value in {"TileWidth": 256, "TileHeight": 256, "MatrixWidth": edge, "MatrixHeight": edge}.items():
            add(matrix, name, str(value))


def _document(request: Request) -> Response:
    service: Service = request.app.state.service
    service.resolver(None)  # says if the server is not ready
    layers = [resolver.layer for resolver in service.resolvers.values()]
    body = capabilities(layers, base_url(request))
    return Response(body, media_type="application/xml", headers={"Cache-Control": "no-cache"})


@router.get("/wmts/1.0.0/WMTSCapabilities.xml", operation_id="wmts_capabilities")
async def restful_capabilities(request: Request) -> Response:
    """The capabilities document."""
    return _document(request)


@router.get("/wmts", operation_id="wmts")
async def by_key_and_value(request: Request) -> Response:
    """`SERVICE=WMTS&REQUEST=GetCapabilities`, or `REQUEST=GetTile` with LAYER, TILEMATRIX, TILECOL, TILEROW, FORMAT."""
    given = {key.lower(): value for key, value in request.query_params.items()}
    wanted = given.get("request", "GetCapabilities").lower()
    if given.get("service", "WMTS").upper() != "WMTS" or wanted not in ("getcapabilities", "gettile"):
        raise BadRequestError("this is a WMTS: REQUEST is GetCapabilities or GetTile")
    if wanted == "getcapabilities":
        return _document(request)
    missing = [name for name in ("layer", "tilematrix", "tilecol", "tilerow") if name not in given]
    if missing:
        raise BadRequestError(f"GetTile needs {', '.join(name.upper() for name in missing)}")
    if given.get("tilematrixset", MATRIX_SET) != MATRIX_SET:
        raise BadRequestError(f"TILEMATRIXSET is {MATRIX_SET}, not {given['tilematrixset'][:40]!r}")
    forms = {media: suffix for suffix, media in MEDIA_TYPES.items()}
    form = given.get("format", "image/png")
    if form not in forms:
        raise BadRequestError(f"FORMAT is one of {', '.join(forms)}, not {form[:40]!r}")
    place = parse_tile(given["tilematrix"], given["tilecol"], f"{given['tilerow']}.{forms[form]}")
    return await answer(request, given["layer"], place, Wishes())
